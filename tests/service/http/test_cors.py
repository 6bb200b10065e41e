"""Cross-origin requests: which pages may read a response."""

from dataclasses import replace

import pytest
from tests.service.conftest import JOB, URL, Poller, Put, polling

from jobstatus.errors import SettingsError
from jobstatus.status import JobState
from jobstatus_service.http.cors import Cors
from jobstatus_service.settings import ServiceSettings

ORIGIN = "https://app.example"
OTHER_ORIGIN = "http://localhost:5173"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}


@pytest.fixture
def cors_settings(service_settings: ServiceSettings) -> ServiceSettings:
    """Settings that allow both origins."""
    return replace(service_settings, cors_origins=(ORIGIN, OTHER_ORIGIN))


REQUESTS = [
    (URL, {}, 200),
    (URL, {"If-None-Match": "*"}, 304),
    (f"{URL}/details", {}, 200),
    (f"{URL}/events", {}, 200),
    (f"{URL}/result", {}, 404),
    (f"/api/jobs?id={JOB}", {}, 200),
    ("/api/jobs", {}, 200),
    ("/api/jobs/counts", {}, 200),
    (URL, {"Authorization": "wrong"}, 401),
    (f"{URL}/details", {"Authorization": "wrong"}, 401),
    ("/api/jobs/not-a-uuid", {}, 422),
    ("/api/none", {}, 404),
    ("/readyz", {}, 200),
    (URL, {"X-Large": "a" * 25_000}, 431),
]


@pytest.mark.parametrize(("path", "headers", "status"), REQUESTS)
async def test_allowed_origin(
    cors_settings: ServiceSettings, put: Put, path: str, headers: dict[str, str], status: int
) -> None:
    """Every response, errors included, names the origin that may read it, and nothing more."""
    put(JOB, state=JobState.SUCCEEDED)
    async with polling(cors_settings) as client:
        for origin in (ORIGIN, OTHER_ORIGIN):
            response = await client.get(path, headers={"Origin": origin, **headers})
            assert response.status_code == status
            assert response.headers.get_list("access-control-allow-origin") == [origin]
            assert "Origin" in response.headers.get_list("vary")
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert {"ETag", "Retry-After", "Preference-Applied", "X-Request-ID"} <= set(exposed)
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(("path", "headers", "status"), REQUESTS)
async def test_other_origin(
    cors_settings: ServiceSettings, put: Put, path: str, headers: dict[str, str], status: int
) -> None:
    """A response to another origin, or to none, allows nobody; caches must not mix them up."""
    put(JOB, state=JobState.SUCCEEDED)
    async with polling(cors_settings) as client:
        for origin in (None, "https://other.example", "https://app.example.evil", "null", ""):
            sent = headers if origin is None else {"Origin": origin, **headers}
            response = await client.get(path, headers=sent)
            assert response.status_code == status
            assert "Origin" in response.headers.get_list("vary")
            assert not [name for name in response.headers if name.startswith("access-control")]


async def test_limits_and_outage(cors_settings: ServiceSettings, put: Put) -> None:
    """A 429 and a 503 can be read by the page, `Retry-After` included."""
    put(JOB)
    headers = {"Origin": ORIGIN}
    async with polling(replace(cors_settings, rate=0.1, burst=1)) as client:
        await client.get(URL, headers=headers)
        for path in (URL, f"{URL}/details"):
            response = await client.get(path, headers=headers)
            assert response.status_code == 429
            assert response.headers["access-control-allow-origin"] == ORIGIN
    unreachable = replace(cors_settings, redis_url="redis://127.0.0.1:1")
    async with polling(unreachable) as client:
        response = await client.get(URL, headers=headers)
        assert response.status_code == 503
        assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", [URL, f"{URL}/events", "/api/jobs", "/api/jobs/counts"])
async def test_preflight(cors_settings: ServiceSettings, path: str) -> None:
    """A preflight request needs no credentials, and allows the headers that clients send."""
    async with polling(cors_settings) as client:
        del client.headers["Authorization"]
        response = await client.options(path, headers=PREFLIGHT)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["access-control-allow-methods"] == "GET, HEAD"
        allowed = response.headers["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "if-none-match", "prefer", "last-event-id"} <= set(allowed)
        assert int(response.headers["access-control-max-age"]) >= 600
        assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://other.example", "null", None])
async def test_preflight_of_another_origin(
    cors_settings: ServiceSettings, origin: str | None
) -> None:
    """The preflight request of an origin that is not allowed is a 403, which says why."""
    async with polling(cors_settings) as client:
        headers = {**PREFLIGHT, "Origin": origin} if origin else {**PREFLIGHT}
        if origin is None:
            del headers["Origin"]
        response = await client.options(URL, headers=headers)
        assert response.status_code == 403
        assert "JOBSTATUS_CORS_ORIGINS" in response.json()["detail"]
        assert "access-control-allow-origin" not in response.headers


async def test_head(cors_settings: ServiceSettings, put: Put) -> None:
    """HEAD has the headers of GET."""
    put(JOB)
    async with polling(cors_settings) as client:
        response = await client.head(URL, headers={"Origin": ORIGIN})
        assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]


async def test_off(client: Poller, put: Put) -> None:
    """Without origins, no response says anything about them, and OPTIONS is answered as before."""
    put(JOB)
    for path in (URL, f"{URL}/details", "/api/none"):
        response = await client.get(path, headers={"Origin": ORIGIN})
        assert "vary" not in response.headers
        assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = await client.options(URL, headers=PREFLIGHT)
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://a.example", ("https://a.example",)),
        (" https://a.example , http://localhost:81 ", ("https://a.example", "http://localhost:81")),
        ("http://[::1]:8000", ("http://[::1]:8000",)),
    ],
)
def test_setting(text: str, origins: tuple[str, ...]) -> None:
    """The setting is a list of origins."""
    settings = ServiceSettings.from_env({"JOBSTATUS_CORS_ORIGINS": text})
    assert settings.cors_origins == origins


@pytest.mark.parametrize(
    "text",
    [
        *("*", "https://*.example", "null", "a.example", "https://a.example/", "ftp://a.example"),
        *("https://A.example", "https://a.example/path", "https://u:p@a.example", "https://"),
        *("https://a.example;https://b.example", "https://a.example?x", "https://a.example#x"),
        *("https://a.example:x", "http://[::1", "http://a.example:80", "https://a.example:443"),
    ],
)
def test_invalid_setting(text: str) -> None:
    """Anything but exact origins stops the service, since it would allow nobody, or everybody."""
    with pytest.raises(SettingsError, match="JOBSTATUS_CORS_ORIGINS must be exact origins"):
        ServiceSettings.from_env({"JOBSTATUS_CORS_ORIGINS": text})


def test_first_origin_counts() -> None:
    """A request with several `Origin` headers, which no browser sends, gets one answer."""
    headers = [(b"origin", b"https://evil.example"), (b"origin", ORIGIN.encode())]
    cors = Cors([ORIGIN, OTHER_ORIGIN])
    assert cors.headers_of({"headers": headers}) == ((b"vary", b"Origin"),)


@pytest.mark.parametrize("origin", [ORIGIN, OTHER_ORIGIN, None])
async def test_single_origin(
    service_settings: ServiceSettings, put: Put, origin: str | None
) -> None:
    """A single origin is named in all responses, which therefore do not vary with the request."""
    put(JOB)
    async with polling(replace(service_settings, cors_origins=(ORIGIN,))) as client:
        for path in (URL, f"{URL}/details", "/api/none"):
            response = await client.get(path, headers={"Origin": origin} if origin else {})
            assert response.headers.get_list("access-control-allow-origin") == [ORIGIN]
            assert "ETag" in response.headers["access-control-expose-headers"]
            assert "vary" not in response.headers
