"""Experiments with adversarial text generation."""

__version__ = "0.1.0"
