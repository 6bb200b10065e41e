"""The recipes of worker/README.md and worker/arq.md."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.processes import ROOT, environment
from tests.records import key
from tests.worker.recipes.queue_recipe import MODULES

PAGES = [(ROOT / "worker" / name).read_text(encoding="utf-8") for name in ("README.md", "arq.md")]
TEXT = "\n".join(PAGES)
RECIPE = re.compile(r"((?:<!-- shows: [^\n]+ -->\n)+)```(python|sh)\n(.*?)```", re.DOTALL)
RECIPES = RECIPE.findall(TEXT)
TESTS = re.findall(r"<!-- a test runs this: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_recipe_is_run() -> None:
    """Every block of code in the pages is tested."""
    blocks = re.findall(r"^```(?:python|sh)$", TEXT, re.MULTILINE)
    assert len(RECIPES) + len(TESTS) + len(MODULES) == len(blocks) > 7


def test_modules_for_other_queues_are_short() -> None:
    """Each module that reports for another queue has fewer than 40 lines."""
    lengths = {name: len(code.splitlines()) for name, code in MODULES.items()}
    assert max(lengths.values()) < 40, lengths


@pytest.mark.parametrize(
    ("shows", "language", "code"), RECIPES, ids=[r[0].split()[2] for r in RECIPES]
)
def test_recipe(
    redis: Any, redis_url: str, tmp_path: Path, shows: str, language: str, code: str
) -> None:
    """A copied recipe has the result that the comment above it announces."""
    script = tmp_path / f"recipe.{language}"
    script.write_text(code, encoding="utf-8")
    binaries = Path(sys.executable).parent
    interpreter = [sys.executable] if language == "python" else ["sh", "-eu"]
    result = subprocess.run(
        [*interpreter, str(script)],
        env=environment(
            JOBSTATUS_REDIS_URL=redis_url, PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}"
        ),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    for job_id, state, progress in re.findall(r"shows: (\S+) (\S+) (\S+)", shows):
        expected = [state, None if progress == "-" else progress]
        assert redis.hmget(key(job_id), "state", "progress") == expected


@pytest.mark.parametrize(("name", "code"), TESTS)
def test_example_of_a_test(tmp_path: Path, name: str, code: str) -> None:
    """The page's example of a test passes, without a server."""
    (tmp_path / name).write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name],
        env=environment(JOBSTATUS_REDIS_URL="redis://127.0.0.1:1"),
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
