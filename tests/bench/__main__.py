"""Run a benchmark: `python -m tests.bench NAME [OPTION ...]`.

Each benchmark measures all that it compares in one run, one after the other in each round, so that
a change in the machine's speed affects all of them alike.
"""

import importlib
import sys

BENCHMARKS = {
    "capacity": "CPU and memory that Redis needs for each write, read and record",
    "eta": "error of the estimated time on curves of progress, compared with other estimators",
    "index": "cost of the index: writes and arq jobs with and without it",
    "list": "time of lists and counts at several sizes, and one stream for many jobs",
    "outage": "memory, CPU and delivery time of a publisher that cannot reach Redis",
    "page": "the live page and the element in Chromium: first rows, long frames, memory, delay",
    "read": "requests per second and latency of the service, compared with other servers",
    "start": "time that the commands of jobstatus take",
    "track": "time that track() adds to each step of a loop, compared with tqdm",
    "wait": "clients that wait for jobs: requests, connections and delay, also while much fails",
    "watch": "memory and notification delay of long polls and event streams",
    "worker": "throughput of arq with and without job status, and the cost of reports",
}

if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
    lines = [f"  {name:<10}{text}" for name, text in BENCHMARKS.items()]
    usage = "usage: python -m tests.bench NAME [OPTION ...]   (--help lists the options of NAME)"
    sys.exit("\n".join([usage, "", *lines]))
importlib.import_module(f"tests.bench.{sys.argv[1]}").main(sys.argv[2:])
