"""Benchmarks against peers: ``python -m tests.benchmarks NAME [--json]``. Not collected by pytest."""

from textgan.threads import wait_briefly

wait_briefly()  # as `textgan` does, and, as there, before torch is loaded
