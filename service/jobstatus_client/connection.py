"""Where the service is, with what credential, and how its certificate is checked."""

import functools
import os
import re
import ssl
import urllib.request
from typing import Final

import httpx

from jobstatus.errors import SettingsError
from jobstatus.settings import variable_text

_is_visible_ascii: Final = re.compile(r"[!-~]*").fullmatch


@functools.cache
def _ssl_context(*, is_needed: bool) -> ssl.SSLContext:
    return httpx.create_ssl_context() if is_needed else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def ssl_context(url: str) -> ssl.SSLContext:
    """Return the context for TLS, which takes 20 ms to make; a cheap one if it is not needed.

    It is needed if the service, or a proxy of the environment, is reached with TLS.
    """
    addresses = (url, *urllib.request.getproxies().values())
    return _ssl_context(is_needed=any(each.lower().startswith("https:") for each in addresses))


def checked(credential: str | None) -> str | None:
    """Return a credential without white space around it; None if there is nothing.

    Raises:
        SettingsError: It can't be sent in a header. The message does not contain it.
    """
    credential = (credential or "").strip()
    if not _is_visible_ascii(credential):
        raise SettingsError("the API key or job token contains characters that a key can't have")
    return credential or None


def key_of_environment() -> str:
    """Return the credential that `JOBSTATUS_KEY` or its file has; empty if there is none.

    Raises:
        SettingsError: Both are set, or the file is empty or can't be read.
    """
    key = variable_text(os.environ, "JOBSTATUS_KEY", in_file=True)
    if not key and os.environ.get("JOBSTATUS_KEY_FILE"):
        raise SettingsError("the file that JOBSTATUS_KEY_FILE names is empty")
    return key


def service_url(url: str | None) -> str:
    """Return the address of the service: an argument, or `JOBSTATUS_URL`.

    Raises:
        SettingsError: It is missing, or can't be the address of a service.
    """
    found = url or os.environ.get("JOBSTATUS_URL", "")
    if not found:
        raise SettingsError(
            "JOBSTATUS_URL is not set: it is the address of the service, "
            "such as http://127.0.0.1:8000"
        )
    try:
        parsed = httpx.URL(found)
        parsed.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise SettingsError(f"JOBSTATUS_URL is not valid: {error}") from None
    if parsed.userinfo:
        raise SettingsError("JOBSTATUS_URL must not contain a password: that is in JOBSTATUS_KEY")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise SettingsError(f"JOBSTATUS_URL must begin with http:// or https://, not {found!r}")
    if "?" in found or "#" in found:
        raise SettingsError(f"JOBSTATUS_URL must end with the host or a path, not {found!r}")
    return found.rstrip("/")
