"""Authenticated clients: whose jobs each may see, and what of them."""

import math

import msgspec

from jobstatus.keys import shard_starts
from jobstatus_service.lookup.view import View


class Client(msgspec.Struct, frozen=True):
    """An authenticated client, by an API key or by a job token.

    Attributes:
        name: The client's name, for logs, metrics and limits: that of its API key, or of the key
            that has signed its token. It is never a secret.
        prefix: The key prefix in Redis of the tenant whose jobs the client may see.
        secret: What identifies the key in the key file; empty if no key is required.
        token_id: The digest of the token, for limits of a single token; empty for an API key.
        jobs: The jobs that the client may see; None for all jobs of the tenant.
        reads_results: Whether it may read the results of jobs.
        view: The form in which it sees them.
        valid_until: When the token expires, on the monotonic clock.
        key_start: What the keys of the jobs' records begin with, unless they are in a Redis
            Cluster; derived from `prefix`.
    """

    name: str
    prefix: str
    secret: str = ""
    token_id: str = ""
    jobs: frozenset[str] | None = None
    reads_results: bool = True
    view: View = View.FULL
    valid_until: float = math.inf
    key_start: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key_start", shard_starts(self.prefix)[0])
