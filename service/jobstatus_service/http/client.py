"""Authenticated clients: whose jobs each may see, and what of them."""

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from jobstatus.keys import shard_starts
from jobstatus_service.lookup.view import View

JOB_PATH: Final = "/api/jobs/"
"""The path of a plain read, which a job's UUID follows."""


class Client(msgspec.Struct, frozen=True):
    """An authenticated client, by an API key or by a job token.

    Attributes:
        name: The client's name, for logs and metrics: that of its API key, or of the key that has
            signed its token. It is never a secret.
        prefix: The key prefix in Redis of the tenant whose jobs the client may see.
        key_id: The SHA-256 of the API key, or the public key that verifies the token; empty if no
            key is required.
        token_id: The digest of the token, for limits of a single token; empty for an API key.
        record_keys: The keys of the records of the jobs that the client may see, by the path of a
            plain read; None for an API key, which may see all jobs of the tenant.
        reads_results: Whether it may read the results of jobs.
        view: The form in which it sees them.
        valid_until: When the token expires, in seconds since the epoch.
        key_start: What the keys of the jobs' records begin with, unless they are in a Redis
            Cluster; derived from `prefix`.
        limit_id: What requests and watchers are counted by for limits; derived from the name, the
            prefix, and whether it is the name of an API key or of a signing key.
    """

    name: str
    prefix: str
    key_id: str = ""
    token_id: str = ""
    record_keys: Mapping[str, str] | None = None
    reads_results: bool = True
    view: View = View.FULL
    valid_until: float = math.inf
    key_start: str = ""
    limit_id: str = ""

    def __post_init__(self) -> None:
        kind = "key" if self.record_keys is None else "token"
        msgspec.structs.force_setattr(self, "key_start", shard_starts(self.prefix)[0])
        msgspec.structs.force_setattr(self, "limit_id", f"{kind} {self.prefix} {self.name}")
