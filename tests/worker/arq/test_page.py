"""The recipes of worker/arq.md."""

import operator
from pathlib import Path
from typing import Any

import pytest
from tests.recipes import Recipe, check, number_of_blocks, recipes_of

PAGE = "worker/arq.md"
RECIPES = recipes_of(PAGE)


def test_every_recipe_is_run() -> None:
    """Every block of code in the page is tested."""
    assert len(RECIPES) == number_of_blocks(PAGE) > 5


@pytest.mark.parametrize("recipe", RECIPES, ids=operator.attrgetter("name"))
def test_recipe(redis: Any, redis_url: str, tmp_path: Path, recipe: Recipe) -> None:
    """A copied recipe has the result that the comment above it announces."""
    check(recipe, tmp_path, redis, redis_url)
