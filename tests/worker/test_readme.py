"""The recipes of worker/README.md."""

import operator
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.processes import environment
from tests.recipes import Recipe, check, number_of_blocks, recipes_of, text_of
from tests.worker.recipes.queue_recipe import MODULES

PAGE = "worker/README.md"
RECIPES = recipes_of(PAGE)
TESTS = re.findall(
    r"<!-- a test runs this: (\S+) -->\n```python\n(.*?)```", text_of(PAGE), re.DOTALL
)


def test_every_recipe_is_run() -> None:
    """Every block of code in the page is tested."""
    assert len(RECIPES) + len(TESTS) + len(MODULES) == number_of_blocks(PAGE)
    assert len(RECIPES) > 7


def test_modules_for_other_queues_are_short() -> None:
    """Each module that reports for another queue has fewer than 40 lines."""
    lengths = {name: len(code.splitlines()) for name, code in MODULES.items()}
    assert max(lengths.values()) < 40, lengths


@pytest.mark.parametrize("recipe", RECIPES, ids=operator.attrgetter("name"))
def test_recipe(redis: Any, redis_url: str, tmp_path: Path, recipe: Recipe) -> None:
    """A copied recipe has the result that the comment above it announces."""
    check(recipe, tmp_path, redis, redis_url)


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
