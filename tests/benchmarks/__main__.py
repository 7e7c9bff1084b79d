"""Runs one benchmark: each module of this folder is one, with a click command ``main``."""

import importlib
import pkgutil
import sys

import tests.benchmarks

NAMES = sorted(m.name for m in pkgutil.iter_modules(tests.benchmarks.__path__) if not m.name.startswith("_"))

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(f"usage: python -m tests.benchmarks NAME [options]; NAME is one of: {', '.join(NAMES)}")
name = sys.argv.pop(1)
importlib.import_module(f"tests.benchmarks.{name}").main(prog_name=f"python -m tests.benchmarks {name}")
