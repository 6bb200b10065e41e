"""Job tokens: short-lived, signed credentials that read the status of named jobs and nothing else.

Code that enqueues a job signs a token and hands it to a browser; the service verifies it and can't
make one. A token is a JSON Web Token (RFC 7519) that is signed with Ed25519 (`alg` is `EdDSA`, RFC
8037), so code in any language can sign one. Its claims:

    iss     the name of the signing key, which is the first word of its line in the key file
    iat     when it was signed, in seconds since the epoch
    exp     when it expires; at most 24 hours after `iat`
    jobs    the UUIDs of 1 to 100 jobs, hyphenated and in lower case
    scope   optional: `result`, `errors`, or both with a space between them

`jobstatus key new --tokens NAME` makes a key pair: the private key for `sign`, and the line of the
service's key file with the public key.
"""

import base64
import binascii
import functools
import os
import re
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from jobstatus.errors import SettingsError, missing_extra
from jobstatus.settings import variable_text
from jobstatus.status import job_uuid

ALGORITHM: Final = "EdDSA"

DEFAULT_LIFETIME: Final = timedelta(minutes=15)
MAX_LIFETIME: Final = timedelta(hours=24)

MAX_JOBS: Final = 100
"""The limit of the API for one request of many jobs."""

SCOPE_RESULT: Final = "result"
SCOPE_ERRORS: Final = "errors"

PUBLIC_MARK: Final = "ed25519:"
_PRIVATE_MARK: Final = ":ed25519-private:"

_VARIABLE: Final = "JOBSTATUS_TOKEN_KEY"
_FORM: Final = f"NAME{_PRIVATE_MARK}KEY, as `jobstatus key new --tokens NAME` has printed it"

_is_name: Final = re.compile(r"[^\s#]+").fullmatch


def sign(
    job_ids: str | UUID | Iterable[str | UUID],
    *,
    expires: timedelta | float = DEFAULT_LIFETIME,
    include_result: bool = False,
    include_errors: bool = False,
    key: str | None = None,
) -> str:
    """Sign a token that reads the status, the details and the events of jobs.

    Args:
        job_ids: One id, or 1 to 100 ids: UUIDs, or any other text, such as an id that arq returned.
        expires: How long the token is valid, as a `timedelta` or in seconds: more than 0, at most
            24 hours. The service allows 30 s more, for clocks that differ.
        include_result: Whether the token also reads the results of the jobs.
        include_errors: Whether reasons contain the messages of exceptions. Without it a reader
            learns only the type of an exception.
        key: The private key, `NAME:ed25519-private:KEY`; None to read it from
            `JOBSTATUS_TOKEN_KEY`, or from the file that `JOBSTATUS_TOKEN_KEY_FILE` names.

    Raises:
        SettingsError: There is no private key, or it is malformed.
        MissingExtraError: The extra `tokens` is not installed.
        ValueError: There is no job, or there are too many, an id is empty, or the lifetime is out
            of range.
    """
    jwt = jwt_module()
    name, private_key = _private_key(_key_from_environment() if key is None else key)
    ids = [job_ids] if isinstance(job_ids, str | UUID) else list(job_ids)
    jobs = list(dict.fromkeys(str(job_uuid(job_id)) for job_id in ids))
    if "" in ids:
        raise ValueError("a token must not name a job with an empty id")
    if not 1 <= len(jobs) <= MAX_JOBS:
        raise ValueError(f"a token names 1 to {MAX_JOBS} jobs, not {len(jobs)}")
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else float(expires)
    if not 0 < seconds <= MAX_LIFETIME.total_seconds():
        raise ValueError(f"a token is valid for more than 0 s, up to 24 hours, not {seconds:g} s")
    now = time.time()
    claims: dict[str, Any] = {"iss": name, "iat": int(now), "exp": int(now + seconds), "jobs": jobs}
    if scope := [SCOPE_RESULT] * include_result + [SCOPE_ERRORS] * include_errors:
        claims["scope"] = " ".join(scope)
    token: str = jwt.encode(claims, private_key, algorithm=ALGORITHM)
    return token


def new_key_pair(name: str) -> tuple[str, str]:
    """Make a key pair.

    Args:
        name: The name of the signing key: one word without `#`.

    Returns:
        The private key, as `sign` reads it, and the public key, as the key file has it.

    Raises:
        MissingExtraError: The extra `tokens` is not installed.
        ValueError: The name is not one word.
    """
    jwt_module()
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - an extra

    if not _is_name(name):
        raise ValueError(f"the name of a key must be one word without #, not {name!r}")
    private_key = ed25519.Ed25519PrivateKey.generate()
    private = name + _PRIVATE_MARK + _encode(private_key.private_bytes_raw())
    return private, PUBLIC_MARK + _encode(private_key.public_key().public_bytes_raw())


def public_key(text: str) -> Any:
    """Return the key object of a public key, as the key file has it.

    Raises:
        MissingExtraError: The extra `tokens` is not installed.
        ValueError: It is malformed.
    """
    jwt_module()
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - an extra

    if not text.startswith(PUBLIC_MARK):
        raise ValueError(f"a public key begins with {PUBLIC_MARK}")
    return ed25519.Ed25519PublicKey.from_public_bytes(_decode(text.removeprefix(PUBLIC_MARK)))


def _key_from_environment() -> str:
    text = variable_text(os.environ, _VARIABLE, in_file=True)
    if not text:
        raise SettingsError(
            f"no key to sign job tokens with: set {_VARIABLE} or {_VARIABLE}_FILE to a private key "
            "that `jobstatus key new --tokens NAME` makes"
        )
    return text


@functools.lru_cache(maxsize=32)
def _private_key(text: str) -> tuple[str, Any]:
    """Return the name of a private key, and its key object.

    Raises:
        SettingsError: It is malformed; the message does not contain it.
    """
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - an extra

    name, mark, encoded = text.strip().rpartition(_PRIVATE_MARK)
    try:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(_decode(encoded))
    except ValueError:
        mark = ""
    if not mark or not _is_name(name):
        raise SettingsError(f"the key that signs job tokens must be {_FORM}")
    return name, key


def jwt_module() -> Any:
    """Return the module `jwt`, which signs and verifies.

    Raises:
        MissingExtraError: It is not installed, or cannot use Ed25519.
    """
    try:
        import cryptography  # noqa: F401, PLC0415 - an extra
        import jwt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a job token", "tokens") from None
    return jwt


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Decode base64url without padding.

    Raises:
        ValueError: It is malformed, or does not have the 32 bytes of an Ed25519 key.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not base64url: {error}") from None
    if len(raw) != 32:  # noqa: PLR2004 - RFC 8032, 5.1.5
        raise ValueError(f"it has {len(raw)} bytes instead of 32")
    return raw
