"""`python -m tests.bench NAME`: benchmarks, each of which compares side by side in one run."""

import importlib
import sys

NAMES = ("capacity", "outage", "read", "track", "watch", "worker")

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(f"usage: python -m tests.bench {{{'|'.join(NAMES)}}} [OPTION ...]")
importlib.import_module(f"tests.bench.{sys.argv[1]}").main(sys.argv[2:])
