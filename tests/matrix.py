"""`.ci/matrix` runs tests with every supported version of Python, arq and redis-py.

Each combination of versions gets a new virtual environment, with the wheel installed:

- without arq: the tests that need no arq, with each major version of redis-py;
- with each version of arq that pyproject.toml permits: the tests that need arq, and arq's own (see
  `arq_suite`), with the oldest redis-py that pyproject.toml permits, and with the newest that arq
  permits.

To test another version of arq or of redis-py, add it to `ARQ_VERSIONS` or `REDIS_VERSIONS`.

Only the standard library is imported, so that any Python can run this module.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]

ARQ_VERSIONS: Final = ("0.25.0", "0.26.3", "0.27.0", "0.28.0")
"""The newest release of each series, oldest first."""

REDIS_VERSIONS: Final = ("==5.3.*", "==6.*", "==7.*", "==8.*")
"""Versions of redis-py to test without arq, oldest first."""

OLDEST_REDIS: Final = "==5.3.0"
NEWEST_REDIS: Final = ">=5.3"
"""The oldest and the newest redis-py to test with arq."""

WITHOUT_ARQ: Final = (
    *("tests/service", "tests/worker", "tests/test_consistency.py"),
    *("--ignore=tests/service/test_demo.py", "--ignore=tests/worker/arq"),
    *("--ignore=tests/worker/test_settings.py", "--ignore=tests/worker/recipes"),
)
WITH_ARQ: Final = (
    *("tests/service/test_demo.py", "tests/worker/arq", "tests/worker/test_settings.py"),
    *("tests/test_chaos.py", "tests/test_end_to_end.py", "tests/test_project.py"),
    *("tests/test_readme.py", "tests/test_tracing.py"),
)
"""Arguments of pytest."""

OTHER_QUEUES: Final = ("celery", "kombu", "saq", "taskiq")
"""What the recipes for other queues need. They permit few versions of redis-py."""

HEADER: Final = ("Python", "arq", "redis", "passed", "failed", "arq's own", "seconds", "result")
WIDTHS: Final = (8, 7, 7, 6, 6, 9, 7, 6)

ARQ_PROMETHEUS: Final = "arq-prometheus>=0.3"
"""The tool of the tests that needs arq."""

PROJECT: Final[dict[str, Any]] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text(encoding="utf-8")
)["project"]


@dataclass
class Combination:
    """A combination of versions, and the result of its tests.

    Attributes:
        python: The path of the Python.
        arq: The version of arq; None: without arq.
        redis: Which versions of redis-py may be installed.
        versions: The versions of Python and of redis-py that were used.
        passed: The number of tests that passed.
        failed: The number of tests that failed.
        arq_suite: How many of arq's own tests passed with this project's worker and pool.
        failures: The output of each command that failed.
        seconds: How long it took, with the installation.
    """

    python: str
    arq: str | None
    redis: str
    versions: tuple[str, str] = ("", "")
    passed: int = 0
    failed: int = 0
    arq_suite: str = ""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0

    def row(self) -> list[str]:
        """Return the columns of the table."""
        python, redis = self.versions
        return [
            *(python, self.arq or "-", redis, str(self.passed), str(self.failed)),
            *(self.arq_suite, f"{self.seconds:.0f}", "FAILED" if self.failures else "ok"),
        ]


def main() -> None:
    """Run the combinations that are asked for, and print a table; exit with 1 if one failed."""
    combinations = _combinations(_parser().parse_args())
    _print_row(HEADER)
    with tempfile.TemporaryDirectory(prefix="jobstatus-matrix-") as name:
        wheel = _build_wheel(Path(name))
        for number, each in enumerate(combinations):
            environment = Path(name) / str(number)
            begin = time.monotonic()
            _run(each, wheel, environment)
            each.seconds = time.monotonic() - begin
            shutil.rmtree(environment, ignore_errors=True)
            _print_row(each.row())
            for failure in each.failures:
                print(failure, flush=True)
    failed = sum(bool(each.failures) for each in combinations)
    print(f"{len(combinations) - failed} of {len(combinations)} combinations passed")
    sys.exit(1 if failed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=".ci/matrix",
        description="Run tests with many versions of Python, arq and redis-py. "
        "Each option may be repeated.",
    )
    parser.add_argument(
        "--python", action="append", help="version (3.13) or path (default: each one that is found)"
    )
    parser.add_argument(
        "--arq", action="append", help="version, or `none` (default: none, and all permitted ones)"
    )
    parser.add_argument("--redis", action="append", help="versions, such as ==7.*")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the extremes: with the Python that runs this, the newest redis-py without arq, "
        "the oldest arq with the newest redis-py, and the newest arq with the oldest redis-py",
    )
    return parser


def _combinations(arguments: argparse.Namespace) -> list[Combination]:
    permitted = [version for version in ARQ_VERSIONS if _is_permitted(version)]
    if arguments.quick:
        quick = [
            *((None, REDIS_VERSIONS[-1]), (permitted[0], NEWEST_REDIS)),
            (permitted[-1], OLDEST_REDIS),
        ]
        return [Combination(sys.executable, arq, redis) for arq, redis in quick]
    arqs = arguments.arq or ["none", *permitted]
    return [
        Combination(python, None if arq == "none" else arq, redis)
        for python, arq in itertools.product(_pythons(arguments.python), arqs)
        for redis in arguments.redis
        or (REDIS_VERSIONS if arq == "none" else (OLDEST_REDIS, NEWEST_REDIS))
    ]


def _is_permitted(arq: str) -> bool:
    """Whether the extra `arq` of pyproject.toml permits a version."""
    (requirement,) = PROJECT["optional-dependencies"]["arq"]
    limits = re.fullmatch(r"arq>=([\d.]+),<([\d.]+)", requirement)
    assert limits is not None, requirement
    return _numbers(limits[1]) <= _numbers(arq) < _numbers(limits[2])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _pythons(wanted: list[str] | None) -> list[str]:
    """Return the paths of the Pythons that are asked for; None: all on the PATH or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, str] = {}
    for number in range(11, 30):
        version = f"3.{number}"
        on_path = shutil.which(f"python{version}")
        candidates = [
            *([on_path] if on_path else []),
            *map(str, pyenv.glob(f"{version}.*/bin/python")),
        ]
        working = [path for path in candidates if _makes_environments(path)]
        if working:
            found[version] = working[0]
    if wanted is None:
        return list(found.values())
    missing = [each for each in wanted if "/" not in each and each not in found]
    if missing:
        sys.exit(f".ci/matrix: Python {', '.join(missing)} is not installed")
    return [found.get(each, each) for each in wanted]


def _makes_environments(python: str) -> bool:
    """Whether a Python runs and can make virtual environments; pyenv's shims may not run."""
    command = [python, "-c", "import ensurepip, venv"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _build_wheel(folder: Path) -> str:
    environment = folder / "build"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    _pip(environment, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    return str(next(folder.glob("*.whl")))


def _run(combination: Combination, wheel: str, environment: Path) -> None:
    """Install the versions of a combination, and run its tests."""
    requirements = [*_requirements(), f"redis{combination.redis}"]
    if combination.arq is None:
        requirements.remove(ARQ_PROMETHEUS)
    else:
        requirements.append(f"arq[watch]=={combination.arq}")
    try:
        subprocess.run([combination.python, "-m", "venv", environment], check=True)
        _pip(environment, "install", *requirements)
        _pip(environment, "install", "--no-deps", wheel)
    except subprocess.CalledProcessError as error:
        combination.failures.append(f"could not be installed: {error.cmd}")
        return
    python = str(environment / "bin" / "python")
    code = (
        "from importlib.metadata import version; from platform import python_version; "
        "print(python_version(), version('redis'))"
    )
    installed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    combination.versions = tuple(installed.stdout.split())  # type: ignore[assignment]
    _run_tests(combination, python)
    if combination.arq:
        _run_arq_suite(combination, python)


def _requirements() -> list[str]:
    """Return what the tests need, except arq."""
    extras = PROJECT["optional-dependencies"].values()
    found = {*PROJECT["dependencies"], *itertools.chain.from_iterable(extras)}
    left_out = ("arq>", "arq[", "jobstatus[", *OTHER_QUEUES)
    return sorted(each for each in found if not each.startswith(left_out))


def _pip(environment: Path, *arguments: str) -> None:
    python = str(environment / "bin" / "python")
    # Twice --quiet: no warnings either; errors are still printed.
    options = ("--disable-pip-version-check", "--quiet", "--quiet")
    subprocess.run([python, "-m", "pip", *options, *arguments], check=True)


def _run_tests(combination: Combination, python: str) -> None:
    tests = WITH_ARQ if combination.arq else WITHOUT_ARQ
    status, output = _output([python, "-m", "pytest", "-q", "--color=no", *tests])
    counts = re.findall(r"(\d+) (passed|failed|errors?)\b", output.rstrip().rpartition("\n")[2])
    for number, word in counts:
        if word == "passed":
            combination.passed += int(number)
        else:
            combination.failed += int(number)
    if status:
        combination.failures.append(output)


def _run_arq_suite(combination: Combination, python: str) -> None:
    redis = f"=={combination.versions[1]}"
    command = [python, "-m", "tests.arq_suite", "--arq", str(combination.arq), "--redis", redis]
    status, output = _output(command)
    passed = re.findall(r"^with status in another database: .*?(\d+) passed", output, re.MULTILINE)
    combination.arq_suite = passed[0] if passed else "?"
    if status:
        combination.failures.append(output)


def _output(command: list[str]) -> tuple[int, str]:
    """Run a command in the root folder; return its exit status and all output."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


def _print_row(columns: Sequence[str]) -> None:
    print(
        "  ".join(f"{each:<{width}}" for each, width in zip(columns, WIDTHS, strict=True)).rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    main()
