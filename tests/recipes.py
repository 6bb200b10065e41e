"""The recipes of a page: blocks of code under a comment that says what their job shows."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import ROOT, environment
from tests.records import key

_RECIPE = re.compile(r"((?:<!-- shows: [^\n]+ -->\n)+)```(python|sh)\n(.*?)```", re.DOTALL)


class Recipe(NamedTuple):
    """A script, and what its jobs show afterwards: id, state and progress, `-` for none."""

    shows: list[tuple[str, str, str]]
    language: str
    code: str

    @property
    def name(self) -> str:
        """The id of its first job."""
        return self.shows[0][0]


def text_of(page: str) -> str:
    """Return the text of a page of the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def recipes_of(page: str) -> list[Recipe]:
    """Return the recipes of a page."""
    return [
        Recipe(re.findall(r"shows: (\S+) (\S+) (\S+)", shows), language, code)
        for shows, language, code in _RECIPE.findall(text_of(page))
    ]


def number_of_blocks(page: str) -> int:
    """Return the number of blocks of code in a page."""
    return len(re.findall(r"^```(?:python|sh)$", text_of(page), re.MULTILINE))


def check(recipe: Recipe, folder: Path, redis: Any, redis_url: str) -> None:
    """Run a recipe as a copied script, and check what its jobs show."""
    script = folder / f"recipe.{recipe.language}"
    script.write_text(recipe.code, encoding="utf-8")
    binaries = Path(sys.executable).parent
    interpreter = [sys.executable] if recipe.language == "python" else ["sh", "-eu"]
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
    for job_id, state, progress in recipe.shows:
        expected = [state, None if progress == "-" else progress]
        assert redis.hmget(key(job_id), "state", "progress") == expected
