"""The keys in Redis."""

from collections import Counter
from uuid import uuid4

import pytest

from jobstatus.keys import (
    SHARDS,
    due_key,
    index_key,
    index_keys,
    is_record_key,
    record_key,
    result_key,
    shard_starts,
    uuid_of_key,
)
from jobstatus.storage.slots import slot_of

UUID_TEXT = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"


def test_keys_of_a_server() -> None:
    """A key is composed of the prefix and the UUID, and gives the UUID back."""
    key = record_key("tenant:one", UUID_TEXT)
    assert key == f"tenant:one:{UUID_TEXT}"
    assert uuid_of_key(key) == UUID_TEXT
    assert result_key(key) == f"{key}:result"
    assert shard_starts("tenant:one") == ["tenant:one:"]
    assert index_key("tenant:one:", "failed") == "tenant:one:index:failed"
    assert due_key("tenant:one:") == "tenant:one:index:due"
    assert is_record_key(key)
    others = (result_key(key), *index_keys(key))
    assert len(set(others)) == 8
    assert not any(map(is_record_key, others))


def test_keys_of_a_cluster() -> None:
    """The keys of a job, and of the index that lists it, belong to one slot of a Cluster."""
    key = record_key("job", UUID_TEXT, is_cluster=True)
    assert key == f"job:{{38}}:{UUID_TEXT}"
    assert uuid_of_key(key) == UUID_TEXT
    (start,) = (each for each in shard_starts("job", is_cluster=True) if key.startswith(each))
    keys = (key, result_key(key), index_key(start, "failed"), due_key(start))
    assert len({slot_of(each) for each in keys}) == 1


@pytest.mark.parametrize("nodes", [3, 4, 6])
def test_shards_are_spread(nodes: int) -> None:
    """Each node of a Cluster has as many shards as the others, and a shard as many jobs."""
    starts = shard_starts("job", is_cluster=True)
    assert len(starts) == len(set(starts)) == SHARDS
    of_nodes = Counter(slot_of(due_key(start)) * nodes // 16_384 for start in starts)
    assert max(of_nodes.values()) <= 1.5 * SHARDS / nodes
    keys = [record_key("job", str(uuid4()), is_cluster=True) for _ in range(6_400)]
    of_shards = Counter(key[:-36] for key in keys)
    assert of_shards.keys() == set(starts)
    assert max(of_shards.values()) < 200
