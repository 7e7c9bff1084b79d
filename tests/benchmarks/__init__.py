"""Benchmarks against peers: ``python -m tests.benchmarks NAME [--json]``. Not collected by pytest."""
