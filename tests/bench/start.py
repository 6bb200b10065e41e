"""Measure how long the commands of `jobstatus` take from their start to their end."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

from tests.bench import load
from tests.bench.table import interleave, markdown
from tests.processes import environment, service


def seconds_of(command: list[str], environ: dict[str, str]) -> Callable[[], float]:
    """Return a function that runs a command, and returns how long that takes."""

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    return run


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="runs of each command (30)")
    options = parser.parse_args(arguments)
    script = str(Path(sys.executable).parent / "jobstatus")
    job = UUID(int=0)
    with load.valkey() as url, service(url) as http:
        store = load.store_at(url)
        store.write([load.write_of(0, 50.0)])
        store.close()
        environ = environment(JOBSTATUS_URL=str(http.base_url), JOBSTATUS_KEY="secret")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import httpx'": [sys.executable, "-c", "import httpx"],
            "jobstatus --help": [script, "--help"],
            "jobstatus get ID": [script, "get", str(job)],
            "jobstatus list": [script, "list"],
            "jobstatus result ID || true": ["sh", "-c", f"{script} result {job} 2>&1 || true"],
        }
        figures = interleave(
            {name: seconds_of(command, environ) for name, command in commands.items()},
            options.rounds,
        )
    rows = [
        (name, f"{1000 * median(found):.0f}", f"{1000 * quantiles(found, n=10)[-1]:.0f}")
        for name, found in figures.items()
    ]
    print(markdown(("command", "median, ms", "p90, ms"), rows))
