"""What a read costs: ours, hot and cold, beside the bare server and what people would write."""

import argparse
import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import UUID

import httpx
from tests.bench import load
from tests.bench.load import Figures
from tests.bench.table import markdown
from tests.processes import free_port

CHANGING = 0.01
"""Share of the jobs that change every second, where some do."""


class Contender(NamedTuple):
    """A server to measure."""

    command: Sequence[str]
    port: int
    path: str = "/api/jobs/"
    environ: Mapping[str, str] = {}
    conditional: bool = False
    changing: bool = False


def contenders(url: str, folder: Path) -> dict[str, Contender]:
    own = {"JOBSTATUS_REDIS_URL": url, "JOBSTATUS_API_KEYS": "secret"}
    package = "tests.bench.contenders"

    def served(make: str, app: str) -> Contender:
        port = free_port()
        command = load.granian if make == "granian" else load.uvicorn
        return Contender(command(f"{package}.{app}:app", port), port, environ=own)

    def ours(conditional: bool = False, changing: bool = False, **environ: str) -> Contender:
        port = free_port()
        environ = own | environ
        return Contender(load.ours(port), port, "/api/jobs/", environ, conditional, changing)

    return {
        "bare ASGI": served("granian", "bare"),
        "ours, hot": ours(),
        "ours, hot, 304": ours(conditional=True),
        "ours, 1 % changing": ours(changing=True),
        "ours, cold": ours(JOBSTATUS_CACHE_SIZE="0"),
        "Litestar + redis-py": served("granian", "plain_litestar"),
        "FastAPI + redis-py, Uvicorn": served("uvicorn", "fastapi_pydantic"),
        "FastAPI + redis-py, Granian": served("granian", "fastapi_pydantic"),
        "webdis": webdis(url, folder),
    }


def webdis(url: str, folder: Path) -> Contender:
    port = free_port()
    redis = httpx.URL(url)
    config = {
        "redis_host": redis.host,
        "redis_port": redis.port,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 1,
        "pool_size": 20,
        "daemonize": False,
        "verbosity": 0,
        "logfile": "/dev/null",
    }
    path = folder / "webdis.json"
    path.write_text(json.dumps(config))
    return Contender(["webdis", str(path)], port, "/HGETALL/job:")


@contextlib.contextmanager
def changes(url: str, jobs: int, run: bool) -> Iterator[None]:
    """A share of the jobs changes every second, one after the other."""
    done = threading.Event()

    def change() -> None:
        store, step = load.store(url), 0
        while not done.wait(1 / (CHANGING * jobs)):
            step += 1
            load.write(store, step % jobs, min(99, 1 + step / 1000))

    thread = threading.Thread(target=change)
    if run:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if run:
            thread.join()


def measure(url: str, contender: Contender, folder: Path, options: argparse.Namespace) -> Figures:
    paths = [f"{contender.path}{UUID(int=n)}" for n in range(options.jobs)]
    requests = folder / "requests.txt"
    with load.serving(contender.command, paths[0], contender.port, contender.environ):
        etags = [""] * len(paths)
        if contender.conditional:
            base = f"http://127.0.0.1:{contender.port}"
            with httpx.Client(base_url=base, headers=load.HEADERS) as client:
                etags = [client.get(path).headers["etag"] for path in paths]
        requests.write_text("\n".join(" ".join(pair) for pair in zip(paths, etags, strict=True)))
        load.wrk(contender.port, requests, 1, options.connections)
        with changes(url, options.jobs, contender.changing):
            return load.wrk(contender.port, requests, options.seconds, options.connections)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench read", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each contender in each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--only", help="contenders whose name has this in it; and the bare one")
    options = parser.parse_args(arguments)
    for program in ("wrk", "webdis"):
        load.must_have(program)
    with load.valkey() as url, tempfile.TemporaryDirectory() as temporary:
        store = load.store(url)
        for number in range(options.jobs):
            load.write(store, number, 1)
        folder = Path(temporary)
        chosen = {
            name: contender
            for name, contender in contenders(url, folder).items()
            if name == "bare ASGI" or not options.only or options.only in name
        }
        figures: dict[str, list[Figures]] = {name: [] for name in chosen}
        for _ in range(options.rounds):
            for name, contender in chosen.items():
                figures[name].append(measure(url, contender, folder, options))
    print(table(figures))


def table(figures: dict[str, list[Figures]]) -> str:
    bare = figures["bare ASGI"]
    rows = []
    for name, own in figures.items():
        rounds = list(zip(own, bare, strict=True))
        rows.append(
            (
                name,
                f"{median(f.per_second for f in own):,.0f}",
                f"{median(f.per_second / b.per_second for f, b in rounds):.2f}",
                f"{median(f.p99 for f in own):.2f}",
                f"{median(f.p99 / b.p99 for f, b in rounds):.2f}",
            )
        )
    return markdown(("server", "reads/s", "against bare", "p99, ms", "against bare"), rows)
