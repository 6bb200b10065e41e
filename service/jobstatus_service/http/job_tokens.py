"""The verification of job tokens, which `jobstatus.tokens` describes."""

import hashlib
import re
import time
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from jobstatus.keys import record_key
from jobstatus.tokens import (
    ALGORITHM,
    MAX_JOBS,
    MAX_LIFETIME,
    SCOPE_ERRORS,
    SCOPE_RESULT,
    jwt_module,
    public_key,
)
from jobstatus_service.http.client import JOB_PATH, Client
from jobstatus_service.lookup.view import View

CLOCK_SKEW_SECONDS: Final = 30
"""How much the clocks of the code that signs and of the service may differ."""

_SIGNATURE_ONLY: Final = {"verify_exp": False, "verify_iat": False}
"""The times are checked here, so that each fault has its message."""

_MALFORMED: Final = "The job token is malformed."
_UNKNOWN_KEY: Final = "The job token is not signed by a key that the service knows."
_EXPIRED: Final = "The job token has expired."
_TOO_LONG: Final = "A job token must be valid for at most 24 hours."
_FROM_FUTURE: Final = "The job token was signed in the future: the clocks differ by more than 30 s."

_VIEW_WITH_ERRORS: Final = View.WITHOUT_TRACEBACK
_VIEW: Final = View.WITHOUT_TRACEBACK | View.WITHOUT_ERRORS

_is_token: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}").fullmatch
"""The compact form (RFC 7515, 3.1) without padding, with a signature of 64 bytes."""

_JobId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
_Time = Annotated[int, Meta(ge=0, le=2**53)]


class InvalidTokenError(Exception):
    """A job token is not valid; the message says why, in one sentence."""


class _Claims(msgspec.Struct, frozen=True):
    """The claims of a job token."""

    iss: str
    iat: _Time
    exp: _Time
    jobs: Annotated[list[_JobId], Meta(min_length=1, max_length=MAX_JOBS)]
    scope: str = ""


class TokenVerifier:
    """Verifies job tokens with the public keys of the key file.

    Attributes:
        has_keys: Whether there is a public key.
    """

    def __init__(self, signers: Iterable[Client], *, is_cluster: bool = False) -> None:
        """Prepare the public keys.

        Args:
            signers: The lines of the key file that have a public key, which is their `key_id`.
            is_cluster: Whether the records are in a Redis Cluster.

        Raises:
            MissingExtraError: The extra `tokens` is not installed.
            ValueError: A public key is malformed.
        """
        self._is_cluster = is_cluster
        self._signers: dict[str, list[tuple[Client, Any]]] = {}
        for signer in signers:
            keys = self._signers.setdefault(signer.name, [])
            keys.append((signer, public_key(signer.key_id)))
        self.has_keys = bool(self._signers)

    def client(self, token: bytes) -> Client:
        """Verify a token, and return the client that it authenticates.

        Raises:
            InvalidTokenError: The token is malformed, has expired or was not signed by one of the
                public keys.
        """
        jwt = jwt_module()
        if not _is_token(token):
            raise InvalidTokenError(_MALFORMED)
        text = token.decode("ascii")
        try:
            unverified = jwt.decode(text, options={"verify_signature": False})
        except Exception:  # whatever a malformed text makes a parser raise
            raise InvalidTokenError(_MALFORMED) from None
        name = unverified.get("iss")
        for signer, key in self._signers.get(name, ()) if isinstance(name, str) else ():
            try:
                verified = jwt.decode(
                    text,
                    key,
                    algorithms=[ALGORITHM],
                    options=_SIGNATURE_ONLY,
                )
            except jwt.InvalidSignatureError:
                continue
            except Exception:
                raise InvalidTokenError(_MALFORMED) from None
            return _client(signer, token, verified, is_cluster=self._is_cluster)
        raise InvalidTokenError(_UNKNOWN_KEY)


def _client(signer: Client, token: bytes, verified: Any, *, is_cluster: bool) -> Client:
    """Return the client of a token whose signature is valid."""
    try:
        claims = msgspec.convert(verified, _Claims)
    except msgspec.ValidationError:
        raise InvalidTokenError(_MALFORMED) from None
    now, valid_until = time.time(), claims.exp + CLOCK_SKEW_SECONDS
    if now >= valid_until:
        raise InvalidTokenError(_EXPIRED)
    if claims.exp - claims.iat > MAX_LIFETIME.total_seconds():
        raise InvalidTokenError(_TOO_LONG)
    if claims.iat > now + CLOCK_SKEW_SECONDS:
        raise InvalidTokenError(_FROM_FUTURE)
    scope = claims.scope.split()
    return Client(
        signer.name,
        signer.prefix,
        signer.key_id,
        # Without the signature: its last character has four unused bits, so that several texts
        # decode to the same signature.
        token_id=hashlib.sha256(token.rpartition(b".")[0]).hexdigest(),
        record_keys={
            JOB_PATH + job: record_key(signer.prefix, job, is_cluster=is_cluster)
            for job in claims.jobs
        },
        reads_results=SCOPE_RESULT in scope,
        view=_VIEW_WITH_ERRORS if SCOPE_ERRORS in scope else _VIEW,
        valid_until=valid_until,
    )
