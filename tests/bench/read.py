"""Measure reads of the service, and compare them with other servers of the same data.

Every server runs on one core, wrk and Valkey on another one. In each round all servers are measured
one after the other, and ratios are computed per round.
"""

import argparse
import contextlib
import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from tests.bench import load
from tests.bench.load import LoadResult
from tests.bench.table import markdown
from tests.processes import free_port

from jobstatus import tokens
from jobstatus.storage.write import Write

CHANGED_SHARE_PER_SECOND = 0.01
"""Share of the jobs that change every second, for the contender with changing jobs."""

BASE = "constant response"
"""The contender that the others are compared with."""

CACHED = "jobstatus, cached"
"""Our service as it is used."""


class Contender(NamedTuple):
    """A server to measure.

    Attributes:
        command: Starts the server.
        port: Where it listens.
        path: What precedes the job's UUID in the path of a request.
        environ: Environment variables of the server.
        sends_etags: Whether requests have an If-None-Match, so that they are answered with 304.
        has_changing_jobs: Whether jobs change during the measurement.
        headers: Further headers of the requests about a job, by its number.
        base: The contender that it is compared with.
    """

    command: Sequence[str]
    port: int
    path: str = "/api/jobs/"
    environ: Mapping[str, str] = {}
    sends_etags: bool = False
    has_changing_jobs: bool = False
    headers: Callable[[int], Mapping[str, str]] = lambda _: {}
    base: str = BASE


def contenders(url: str, folder: Path) -> dict[str, Contender]:
    """Return all servers by the name that the table shows."""
    common = {"JOBSTATUS_REDIS_URL": url, "JOBSTATUS_API_KEYS": "secret"}
    package = "tests.bench.contenders"

    def application(server: Callable[[str, int], list[str]], module: str) -> Contender:
        port = free_port()
        return Contender(server(f"{package}.{module}:app", port), port, environ=common)

    def jobstatus(environ: Mapping[str, str] = MappingProxyType({}), **options: Any) -> Contender:
        port = free_port()
        environ = common | dict(environ)
        return Contender(load.jobstatus_serve(port), port, environ=environ, **options)

    private_key, public_key = tokens.new_key_pair("web")
    keys = folder / "keys"
    keys.write_text(f"web {public_key}\n")

    def with_token(number: int) -> Mapping[str, str]:
        token = tokens.sign(UUID(int=number), expires=86_400, key=private_key)
        return {"Authorization": f"Bearer {token}"}

    def with_origin(number: int) -> Mapping[str, str]:
        del number
        return {"Origin": "https://app.example"}

    return {
        BASE: application(load.granian, "constant_response"),
        CACHED: jobstatus(),
        "jobstatus, cached, 304": jobstatus(sends_etags=True),
        "jobstatus, 1 % of jobs change per second": jobstatus(has_changing_jobs=True),
        "jobstatus, a job token for each job": jobstatus(
            {"JOBSTATUS_API_KEYS_FILE": str(keys)}, headers=with_token, base=CACHED
        ),
        "jobstatus, an Origin, CORS off": jobstatus(headers=with_origin, base=CACHED),
        "jobstatus, an Origin, CORS on": jobstatus(
            {"JOBSTATUS_CORS_ORIGINS": "https://app.example"},
            headers=with_origin,
            base="jobstatus, an Origin, CORS off",
        ),
        "jobstatus, cache disabled": jobstatus({"JOBSTATUS_CACHE_SIZE": "0"}),
        "Litestar + redis-py": application(load.granian, "plain_litestar"),
        "FastAPI + redis-py, Uvicorn": application(load.uvicorn, "fastapi_pydantic"),
        "FastAPI + redis-py, Granian": application(load.granian, "fastapi_pydantic"),
        "webdis": webdis(url, folder),
    }


def webdis(url: str, folder: Path) -> Contender:
    """Return webdis, an HTTP server in C that exposes Redis commands, with one thread."""
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


def change(jobs: int, step: int) -> Write:
    """Return the write of one step of the changes: to each job in turn."""
    return load.write_of(step % jobs, min(99, 1 + step / 1000))


def measure(
    url: str, contender: Contender, folder: Path, options: argparse.Namespace
) -> LoadResult:
    """Start the server, warm it up for a second, and load it."""
    paths = [f"{contender.path}{UUID(int=n)}" for n in range(options.jobs)]
    requests = folder / "requests.txt"
    with load.serving(contender.command, paths[0], contender.port, contender.environ):
        etags = [""] * len(paths)
        if contender.sends_etags:
            base = f"http://127.0.0.1:{contender.port}"
            with httpx.Client(base_url=base, headers=load.HEADERS) as client:
                etags = [client.get(path).headers["etag"] for path in paths]
        lines = []
        for number, (path, etag) in enumerate(zip(paths, etags, strict=True)):
            headers = {"If-None-Match": etag} if etag else {}
            headers |= contender.headers(number)
            lines.append("\t".join([path, *(f"{name}: {headers[name]}" for name in headers)]))
        requests.write_text("\n".join(lines))
        load.wrk(contender.port, requests, 1, options.connections)
        with contextlib.ExitStack() as stack:
            if contender.has_changing_jobs:
                rate = CHANGED_SHARE_PER_SECOND * options.jobs
                write = functools.partial(change, options.jobs)
                stack.enter_context(load.changing(url, write, rate))
            return load.wrk(contender.port, requests, options.seconds, options.connections)


def main(arguments: list[str]) -> None:
    """Print one row per server."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench read", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each server (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=4, help="length of a measurement (default %(default)s)"
    )
    parser.add_argument(
        "--connections", type=int, default=64, help="keep-alive connections (default %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1000, help="jobs that are read in turn (default %(default)s)"
    )
    parser.add_argument(
        "--only", help=f"measure only servers whose name matches, '{BASE}', and '{CACHED}'"
    )
    options = parser.parse_args(arguments)
    load.require("wrk")
    with load.valkey() as url, tempfile.TemporaryDirectory() as temporary:
        load.store_at(url).write([load.write_of(number, 1) for number in range(options.jobs)])
        folder = Path(temporary)
        chosen = {
            name: contender
            for name, contender in contenders(url, folder).items()
            if name in {BASE, CACHED} or not options.only or re.search(options.only, name)
        }
        if "webdis" in chosen:
            load.require("webdis")
        results: dict[str, list[LoadResult]] = {name: [] for name in chosen}
        for _ in range(options.rounds):
            for name, contender in chosen.items():
                results[name].append(measure(url, contender, folder, options))
    print(
        f"{options.connections} connections read {options.jobs:,} jobs in turn; medians of "
        f"{options.rounds} rounds of {options.seconds:g} s. Ratios are relative to '{BASE}', a "
        "server that sends a fixed body without looking at the request.\n"
    )
    print(table(results, chosen))


def table(results: dict[str, list[LoadResult]], chosen: Mapping[str, Contender]) -> str:
    """Return the medians of each server, and of its ratios per round to its base."""
    rows = []
    for name, own in results.items():
        base = chosen[name].base
        rounds = list(zip(own, results[base], strict=True))
        shown = name if base == BASE else f"{name} (ratios to '{base}')"
        rows.append(
            (
                shown,
                f"{median(r.requests_per_second for r in own):,.0f}",
                f"{median(r.requests_per_second / b.requests_per_second for r, b in rounds):.2f}",
                f"{median(r.p99_ms for r in own):.2f}",
                f"{median(r.p99_ms / b.p99_ms for r, b in rounds):.2f}",
            )
        )
    head = ("server", "requests per second", "ratio", "99th percentile latency, ms", "ratio")
    return markdown(head, rows)
