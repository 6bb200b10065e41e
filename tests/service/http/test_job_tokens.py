"""Job tokens: what they read, what they don't, and when they are rejected."""

import asyncio
import base64
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import JOB, URL, Poller, Put, polling, until
from tests.service.cuttable_proxy import Proxy

from jobstatus import tokens
from jobstatus.keys import record_key
from jobstatus.status import DETAIL_MARK, JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.api_keys import ApiKeys, digest
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.http.job_tokens import InvalidTokenError
from jobstatus_service.settings import ServiceSettings

PRIVATE, PUBLIC = tokens.new_key_pair("web")
OTHER_PRIVATE, OTHER_PUBLIC = tokens.new_key_pair("web")
OTHER_JOB = UUID("11111111-e6a1-4c2b-9d0e-000000000001")


def signed(*ids: UUID | str, **options: Any) -> str:
    """Return a token for jobs, by default for `JOB`."""
    return tokens.sign(ids or [JOB], **{"key": PRIVATE, **options})


def forged(claims: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return a token with a valid signature of the claims as they are given."""
    now = int(time.time())
    standard = {"iss": "web", "iat": now, "exp": now + 60, "jobs": [str(JOB)]}
    merged = {**standard, **changes} if claims is None else claims
    _, key = tokens._private_key(PRIVATE)
    payload = json.dumps({k: v for k, v in merged.items() if v is not ...}).encode()
    return jwt.PyJWS().encode(payload, key, algorithm="EdDSA")


def short_lived() -> tuple[str, float]:
    """Return a token, and seconds after which it is no longer accepted: less than 1.5."""
    now = time.time()
    exp = math.ceil(now - 29.6)  # 30 s more are allowed
    return forged(iat=exp - 60, exp=exp), exp + 30 - now + 0.05


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file with the API key `secret` and the public key of `signed`."""
    file = tmp_path / "keys"
    file.write_text(f"ops {digest('secret')}\nweb {PUBLIC}\n")
    return file


@pytest.fixture
def token_settings(service_settings: ServiceSettings, key_file: Path) -> ServiceSettings:
    """Settings of a service with that key file."""
    return replace(service_settings, api_keys=(), api_keys_file=str(key_file))


@pytest.fixture
async def tokened(token_settings: ServiceSettings) -> AsyncIterator[Callable[[str], Poller]]:
    """Return a function that returns a client with a token."""
    async with polling(token_settings) as client, contextlib.AsyncExitStack() as stack:
        clients = {}

        def client_with(token: str) -> Poller:
            clients[token] = Poller(client.app, f"Bearer {token}")
            stack.push_async_callback(clients[token].aclose)
            return clients[token]

        yield client_with


Tokened = Callable[[str], Poller]


@pytest.mark.parametrize("path", [URL, f"{URL}/details", f"/api/jobs?id={JOB}"])
async def test_read(tokened: Tokened, put: Put, path: str) -> None:
    """A token reads the status and the details of its job, raw or after `Bearer`, as a key does."""
    put(JOB, state=JobState.SUCCEEDED)
    client = tokened(signed())
    by_key = await client.get(path, headers={"Authorization": "secret"})
    for header in (signed(), f"Bearer {signed()}", f"bearer {signed()}"):
        response = await client.get(path, headers={"Authorization": header})
        assert (response.status_code, response.content) == (200, by_key.content)
        assert response.headers["etag"] == by_key.headers["etag"]
        headers = {"If-None-Match": response.headers["etag"], "Authorization": header}
        assert (await client.get(path, headers=headers)).status_code == 304


async def test_streams(tokened: Tokened, put: Put) -> None:
    """A token follows its jobs, one or several in one stream."""
    put(JOB, state=JobState.SUCCEEDED)
    put(OTHER_JOB, state=JobState.SUCCEEDED)
    client = tokened(signed(JOB, OTHER_JOB))
    for path in (f"{URL}/events", f"/api/jobs/events?id={JOB}&id={OTHER_JOB}&details=1"):
        response = await client.get(path)
        assert response.status_code == 200
        assert f'"id":"{JOB}"' in response.text


@pytest.mark.parametrize(
    "path",
    [
        f"/api/jobs/{OTHER_JOB}",
        f"/api/jobs/{OTHER_JOB}?wait=1",
        f"/api/jobs/{OTHER_JOB.hex}",
        f"/api/jobs/{OTHER_JOB}/details",
        f"/api/jobs/{OTHER_JOB}/events",
        f"/api/jobs/{OTHER_JOB}/result",
        f"{URL}/result",
        f"/api/jobs?id={OTHER_JOB}",
        f"/api/jobs?id={JOB}&id={OTHER_JOB}",
        f"/api/jobs?id={JOB}&key=nightly",
        f"/api/jobs/events?id={JOB}&id={OTHER_JOB}",
        "/api/jobs",
        "/api/jobs?state=failed",
        "/api/jobs?nonsense=1",
        "/api/jobs/counts",
        "/api/jobs/events",
    ],
)
@pytest.mark.parametrize("exists", [True, False])
async def test_forbidden(tokened: Tokened, put: Put, path: str, exists: bool) -> None:
    """A token reads no other job, whether it exists or not, no list, no counts and no result."""
    put(JOB, state=JobState.SUCCEEDED)
    if exists:
        put(OTHER_JOB, state=JobState.SUCCEEDED)
    response = await tokened(signed()).get(path)
    assert response.status_code == 403
    assert list(response.json()) == ["detail"]


@pytest.mark.parametrize("path", [URL, f"{URL}?wait=1", "/api/jobs", f"{URL}/result"])
async def test_not_in_a_url(tokened: Tokened, put: Put, path: str) -> None:
    """A token in the URL is not accepted."""
    put(JOB)
    client = tokened("wrong")
    del client.headers["Authorization"]
    separator = "&" if "?" in path else "?"
    for name in ("token", "access_token", "authorization", "Authorization"):
        response = await client.get(f"{path}{separator}{name}={signed()}")
        assert response.status_code == 401


def encoded(raw: bytes) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def without_signature(alg: str) -> str:
    """Return a token that claims another algorithm."""
    header, payload, signature = signed().split(".")
    fields = {"alg": alg, "typ": "JWT"}
    header = encoded(json.dumps(fields).encode())
    return f"{header}.{payload}.{signature if alg != 'none' else ''}"


HOUR = 3_600

REJECTED: dict[str, Callable[[], str]] = {
    "alg none": lambda: without_signature("none"),
    "alg HS256 header": lambda: without_signature("HS256"),
    "alg RS256 header": lambda: without_signature("RS256"),
    "HS256 with the public key as its secret": lambda: jwt.encode(
        {"iss": "web", "iat": 0, "exp": 2**33, "jobs": [str(JOB)]},
        PUBLIC.removeprefix("ed25519:").ljust(64, "="),
        algorithm="HS256",
    ),
    "unknown key": lambda: signed(key=OTHER_PRIVATE),
    "unknown name": lambda: signed(key=PRIVATE.replace("web", "nobody", 1)),
    "changed payload": lambda: (
        f"{signed().split('.')[0]}.{signed(OTHER_JOB).split('.')[1]}.{signed().split('.')[2]}"
    ),
    "cut": lambda: signed()[:-1],
    "no JSON": lambda: "a.b.c",
    "not ASCII": lambda: "é" + signed(),
    "empty parts": lambda: "..",
    "no jobs": lambda: forged(jobs=...),
    "jobs is a text": lambda: forged(jobs=str(JOB)),
    "empty jobs": lambda: forged(jobs=[]),
    "101 jobs": lambda: forged(jobs=[str(uuid4()) for _ in range(101)]),
    "a job that is no UUID": lambda: forged(jobs=["nightly"]),
    "no exp": lambda: forged(exp=...),
    "no iat": lambda: forged(iat=...),
    "exp is a text": lambda: forged(exp="tomorrow"),
    "exp is not finite": lambda: forged(exp=1e400),
    "exp is huge": lambda: forged(exp=10**400),
    "iat is negative": lambda: forged(iat=-1),
    "deep JSON": lambda: (
        encoded(b'{"alg":"EdDSA"}') + "." + encoded(b'{"a":' + b"[" * 8_000) + "." + "A" * 86
    ),
    "padding": lambda: signed() + "==",
    "other characters": lambda: signed()[:-3] + "!" + signed()[-3:],
    "a job with a line end": lambda: forged(jobs=[f"{JOB}\n"]),
    "valid for more than 24 hours": lambda: forged(
        iat=int(time.time()), exp=int(time.time()) + 25 * HOUR
    ),
    "signed in the future": lambda: forged(
        iat=int(time.time()) + 60, exp=int(time.time()) + 2 * HOUR
    ),
    "expired": lambda: forged(iat=int(time.time()) - HOUR, exp=int(time.time()) - 31),
    "iss is a list": lambda: forged(iss=["web"]),
    "scope is a list": lambda: forged(scope=["result"]),
}


@pytest.mark.parametrize("fault", REJECTED)
async def test_rejected(tokened: Tokened, put: Put, fault: str) -> None:
    """A token that is malformed, expired or not signed by a known key is a 401 that says so."""
    put(JOB)
    token = REJECTED[fault]()
    client = tokened("wrong")
    for path in (URL, f"{URL}/details", "/api/jobs"):
        headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
        response = await client.get(path, headers=headers)  # type: ignore[arg-type]
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith('Bearer realm="jobstatus", error=')
        assert token not in response.text + str(response.headers)
    assert client.app.metrics.auth_failures == 3


@pytest.mark.parametrize(
    ("iat", "exp"), [(-HOUR, -29), (29, 60), (-10, 24 * HOUR - 10), (-24 * HOUR, -20)]
)
async def test_clock_skew(tokened: Tokened, put: Put, iat: int, exp: int) -> None:
    """Clocks may differ by 30 seconds."""
    put(JOB)
    now = int(time.time())
    response = await tokened(forged(iat=now + iat, exp=now + exp)).get(URL)
    assert response.status_code == 200


async def test_verified_once(tokened: Tokened, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is verified once; then the fast path answers, also from the cache."""
    put(JOB)
    client = tokened(signed())
    await client.get(URL)
    monkeypatch.setattr(ApiKeys, "find", lambda *_: pytest.fail("verified again"))
    monkeypatch.setattr(FastPathApp, "_respond_by_route", lambda *_: pytest.fail("route"))
    for _ in range(3):
        assert (await client.get(URL)).status_code == 200


async def test_expires_while_remembered(
    tokened: Tokened, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that expires after it was verified is rejected on both paths."""
    put(JOB)
    token, seconds = short_lived()
    client = tokened(token)
    assert (await client.get(URL)).status_code == 200
    await asyncio.sleep(seconds)
    for path in (URL, f"{URL}/details"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (
            401,
            {"detail": "The job token has expired."},
        )


async def test_watchers_end_with_the_token(tokened: Tokened, put: Put) -> None:
    """A stream ends and a long poll is a 401 when their token expires."""
    put(JOB)
    token, _ = short_lived()
    client = tokened(token)
    paths = (f"{URL}/events", f"{URL}?wait=30")
    exchanges = [
        Exchange(client, path, authorization=client.headers["authorization"]) for path in paths
    ]
    await asyncio.wait_for(asyncio.gather(*(each.task for each in exchanges)), 10)
    assert [each.status for each in exchanges] == [200, 401]


async def test_revoked(tokened: Tokened, put: Put, key_file: Path) -> None:
    """Without the line of the public key its tokens are rejected, and their watchers end."""
    put(JOB)
    client = tokened(signed())
    stream = Exchange(client, f"{URL}/events", authorization=client.headers["authorization"])
    await until(lambda: client.app.statuses.watchers.open["stream"] == 1)
    key_file.write_text(f"ops {digest('secret')}\nweb {OTHER_PUBLIC}\n")
    await asyncio.wait_for(stream.task, 5)
    assert (await client.get(URL)).status_code == 401
    rotated = await client.get(
        URL, headers={"Authorization": f"Bearer {signed(key=OTHER_PRIVATE)}"}
    )
    assert rotated.status_code == 200


@pytest.mark.parametrize("kind", ["token", "key"])
@pytest.mark.parametrize("path", [f"{URL}/events", f"{URL}?wait=30", "/api/jobs/events"])
async def test_revoked_while_redis_is_slow(
    token_settings: ServiceSettings, put: Put, key_file: Path, proxy: Proxy, kind: str, path: str
) -> None:
    """A key that is removed before its stream or wait begins is rejected."""
    put(JOB)
    if kind == "token" and path == "/api/jobs/events":
        return  # is a 403 anyway
    settings = replace(token_settings, redis_url=proxy.url, timeout=5.0)
    async with polling(settings) as client:
        await client.get(f"/api/jobs/{OTHER_JOB}")
        proxy.flowing.clear()
        header = f"Bearer {signed()}" if kind == "token" else "secret"
        exchange = Exchange(client, path, authorization=header)
        await asyncio.sleep(0.1)
        key_file.write_text(f"other {digest('other')}\n")
        client.app.api_keys.refresh()
        proxy.flowing.set()
        await asyncio.wait_for(exchange.task, 5)
        assert exchange.status == 401


async def test_rotation(tokened: Tokened, put: Put, key_file: Path) -> None:
    """While two keys of one name are in the file, tokens of both are valid."""
    put(JOB)
    key_file.write_text(f"web {OTHER_PUBLIC}\nweb {PUBLIC}\n")
    client = tokened("wrong")
    client.app.api_keys.refresh()
    for key in (PRIVATE, OTHER_PRIVATE):
        headers = {"Authorization": f"Bearer {signed(key=key)}"}
        assert (await client.get(URL, headers=headers)).status_code == 200


async def test_tenant(tokened: Tokened, put: Put, key_file: Path) -> None:
    """A token reads jobs of the tenant in its key's line, whatever it names."""
    put(JOB, prefix="two", name="theirs")
    put(JOB, name="ours")
    key_file.write_text(f"web {PUBLIC} two\n")
    client = tokened(signed())
    client.app.api_keys.refresh()
    for path in (URL, f"{URL}/details"):
        assert (await client.get(path)).json()["name"] == "theirs"


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.RETRYING])
async def test_errors(tokened: Tokened, settings: Any, state: JobState) -> None:
    """Without the right to errors, reasons have no messages of exceptions, on any route."""
    reason = f"ValueError{DETAIL_MARK}: password is 42{DETAIL_MARK}; again in 5 s"
    write = Write(
        f"job:{JOB}", Record(name="n", state=state, created=1, attempt=1, reason=reason), 60_000, 0
    )
    with contextlib.closing(Store.from_settings(settings)) as store:
        store.write([write])
    paths = (URL, f"{URL}/details", f"/api/jobs?id={JOB}", f"{URL}?wait=0.01&until=done")
    hidden, shown = tokened(signed()), tokened(signed(include_errors=True))
    etags = set()
    for path in paths * 2:
        without, with_errors = await hidden.get(path), await shown.get(path)
        assert '"reason":"ValueError; again in 5 s"' in without.text
        assert '"reason":"ValueError: password is 42; again in 5 s"' in with_errors.text
        by_key = await shown.get(path, headers={"Authorization": "secret"})
        assert by_key.content == with_errors.content
        etags |= {without.headers["etag"], with_errors.headers["etag"]}
        headers = {"If-None-Match": without.headers["etag"]}
        assert (await hidden.get(path, headers=headers)).status_code == 304
    assert len(etags) == 6
    if state.is_final:
        for path in (f"{URL}/events", f"/api/jobs/events?id={JOB}&details=1"):
            response = await hidden.get(path)
            assert "ValueError; again" in response.text
            assert "password" not in response.text
            event_id = response.text.split("id: ")[1].split("\n")[0]
            again = await hidden.get(path, headers={"Last-Event-ID": event_id})
            assert again.status_code == 204


@pytest.mark.parametrize(
    ("include_result", "kind", "status"),
    [(False, "value", 403), (True, "value", 200), (True, "traceback", 404), (True, "", 404)],
)
async def test_result(
    tokened: Tokened, redis: Any, settings: Any, include_result: bool, kind: str, status: int
) -> None:
    """A token reads results if it says so; a traceback is for API keys only."""
    stored = {"value": b'{"pages":12}', "traceback": b'"Traceback"'}.get(kind)
    record = Record(name="n", state=JobState.SUCCEEDED, created=1, attempt=1, result=kind)
    with contextlib.closing(Store.from_settings(settings)) as store:
        store.write([Write(f"job:{JOB}", record, 60_000, 0, result=stored)])
    client = tokened(signed(include_result=include_result, include_errors=True))
    response = await client.get(f"{URL}/result")
    assert response.status_code == status
    details = (await client.get(f"{URL}/details")).json()
    assert details["has_result"] == (kind == "value")


@pytest.mark.parametrize(
    ("include_errors", "detail"),
    [
        (True, "The result was dropped: the result is not JSON: password is 42."),
        (False, "The result was dropped."),
    ],
)
async def test_reason_of_a_dropped_result(
    tokened: Tokened, settings: Any, include_errors: bool, detail: str
) -> None:
    """Why a result was dropped may be the message of an exception, too."""
    result = "the result is not JSON: password is 42"
    record = Record(name="n", state=JobState.SUCCEEDED, created=1, attempt=1, result=result)
    with contextlib.closing(Store.from_settings(settings)) as store:
        store.write([Write(f"job:{JOB}", record, 60_000, 0)])
    client = tokened(signed(include_result=True, include_errors=include_errors))
    response = await client.get(f"{URL}/result")
    assert (response.status_code, response.json()) == (410, {"detail": detail})


async def test_result_of_another_run(
    tokened: Tokened, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback that replaces the result while it is read is not sent."""
    store = Store.from_settings(settings)

    def finish(attempt: int, state: JobState, kind: str, value: bytes) -> None:
        record = Record(name="n", state=state, created=attempt, attempt=1, result=kind)
        store.write([Write(f"job:{JOB}", record, 60_000, 0, result=value)])

    finish(1, JobState.SUCCEEDED, "value", b"1")
    client = tokened(signed(include_result=True))
    assert (await client.get(f"{URL}/result")).json() == 1
    reader = client.app.statuses.reader
    execute = reader.execute

    async def execute_later(*arguments: Any) -> Any:
        finish(2, JobState.FAILED, "traceback", b'"Traceback"')
        return await execute(*arguments)

    monkeypatch.setattr(reader, "execute", execute_later)
    response = await client.get(f"{URL}/result")
    assert response.status_code == 404
    store.close()


async def test_limits(token_settings: ServiceSettings, put: Put) -> None:
    """The rate and the watchers of one token are limited, and do not count for another token."""
    put(JOB)
    settings = replace(token_settings, token_rate=0.5, max_watchers_per_token=1)
    async with polling(settings) as client:
        one, two = (
            {"Authorization": f"Bearer {signed(expires=timedelta(minutes=n))}"} for n in (1, 2)
        )
        statuses = [
            (await client.get(path, headers=one)).status_code
            for path in (URL, f"{URL}/details", URL)
        ]
        assert statuses == [200, 429, 429]
        assert (await client.get(URL, headers=two)).status_code == 200
        for _ in range(3):
            assert (await client.get(URL)).status_code == 200  # an API key has no such limit
    settings = replace(token_settings, max_watchers_per_token=1)
    async with polling(settings) as client:
        stream = Exchange(client, f"{URL}/events", authorization=one["Authorization"])
        await client.watchers_open(1, "stream")
        rejected = await client.get(f"{URL}?wait=1", headers=one)
        assert (rejected.status_code, rejected.headers["retry-after"]) == (429, "5")
        waited = await client.get(f"{URL}?wait=0.05", headers=two)
        assert waited.status_code == 200
        stream.disconnect()
        await stream.task


async def test_limit_of_the_signing_key(token_settings: ServiceSettings, put: Put) -> None:
    """All tokens of a key share its rate."""
    put(JOB)
    async with polling(replace(token_settings, rate=0.5, burst=2)) as client:
        statuses = []
        for minutes in (1, 2, 3):
            token = signed(expires=timedelta(minutes=minutes))
            headers = {"Authorization": f"Bearer {token}"}
            statuses.append((await client.get(URL, headers=headers)).status_code)
        assert statuses == [200, 200, 429]


async def test_limits_of_one_name(service_settings: ServiceSettings, tmp_path: Path) -> None:
    """A key for tokens and an API key of one name, or of two tenants, have limits of their own."""
    file = tmp_path / "keys"
    file.write_text(f"web {digest('secret')}\nweb {digest('two')} two\nweb {PUBLIC}\n")
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file), rate=0.01, burst=1)
    async with polling(settings) as client:
        for header in ("secret", "two", f"Bearer {signed()}"):
            statuses = [
                (await client.get(URL, headers={"Authorization": header})).status_code
                for _ in range(2)
            ]
            assert statuses == [200, 429]


def test_other_spellings_are_not_remembered(token_settings: ServiceSettings) -> None:
    """A header with other spaces is accepted, but can't push others out of memory."""
    keys = ApiKeys(token_settings)
    for header in (f"bearer {signed()}", f"Bearer  {signed()}", f" {signed()}"):
        assert keys.find(header) is not None
    assert not keys.recent_headers


def test_hundred_jobs_are_remembered(token_settings: ServiceSettings) -> None:
    """The largest token is remembered, too."""
    keys = ApiKeys(token_settings)
    header = f"Bearer {signed(*(uuid4() for _ in range(100)))}"
    found = keys.find(header)
    assert keys.recent_headers == {header.encode(): found}


def test_remembered_bytes_are_limited(token_settings: ServiceSettings) -> None:
    """Remembered headers take a limited number of bytes."""
    keys = ApiKeys(token_settings)
    keys._remembered_bytes = 32 * 2**20 - 10
    header = f"Bearer {signed()}"
    keys.recent_headers[b"old"] = keys.find("secret")  # type: ignore[assignment]
    keys.find(header)
    assert list(keys.recent_headers) == [header.encode()]


def test_without_public_keys(service_settings: ServiceSettings) -> None:
    """A service without public keys takes a token for a wrong API key."""
    assert ApiKeys(service_settings).find(signed()) is None


def test_api_key_with_dots(service_settings: ServiceSettings, key_file: Path) -> None:
    """An API key may look like a token."""
    settings = replace(service_settings, api_keys=("a.b.c",), api_keys_file=str(key_file))
    keys = ApiKeys(settings)
    found = keys.find("a.b.c")
    assert found is not None
    assert found.name == "env-1"
    with pytest.raises(InvalidTokenError):
        keys.find("a.b.d")


def test_cluster(token_settings: ServiceSettings) -> None:
    """In a Redis Cluster a token reads the records in their shards."""
    settings = replace(token_settings, redis_url="redis+cluster://127.0.0.1:1")
    found = ApiKeys(settings).find(signed())
    assert found is not None
    assert found.record_keys == {URL: record_key("job", str(JOB), is_cluster=True)}
