"""Both clients: what they share, what they close, and what a test can replace."""

import asyncio
import contextlib
import json
import math
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from tests.conformance.scripted_server import Loop, ScriptedServer
from tests.conformance.statuses import Statuses
from tests.processes import service
from tests.service.conftest import Put, put, until
from tests.waiting import eventually

from jobstatus import JobState, JobStatusError, SettingsError
from jobstatus_client import (
    AsyncClient,
    Client,
    ClientClosedError,
    RequestError,
    UnavailableError,
    WaitTimeoutError,
)
from jobstatus_client.thread_runner import ThreadRunner

__all__ = ["put"]

URL = "http://jobs.test"


def test_repr_contains_no_key() -> None:
    """The repr shows the address only."""
    assert repr(Client(URL, "sesame")) == "Client('http://jobs.test')"
    assert repr(AsyncClient(URL, "sesame")) == "AsyncClient('http://jobs.test')"


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The address and the key come from the environment, if they are not given."""
    with pytest.raises(SettingsError, match="JOBSTATUS_URL is not set"):
        Client()
    monkeypatch.setenv("JOBSTATUS_URL", f"{URL}/base/")
    (tmp_path / "key").write_text("sesame\n")
    monkeypatch.setenv("JOBSTATUS_KEY_FILE", str(tmp_path / "key"))
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"failed": 3})

    with Client(transport=httpx.MockTransport(answer)) as client:
        assert client.counts().failed == 3
    assert str(seen[0].url) == f"{URL}/base/api/jobs/counts"
    assert seen[0].headers["Authorization"] == "Bearer sesame"


def test_clock_and_random_can_be_replaced() -> None:
    """A test can decide how the time passes."""
    times = iter([0.0, 0.0, 5.0, 11.0])
    transport = httpx.MockTransport(lambda _: httpx.Response(503))
    client = Client(URL, transport=transport, clock=lambda: next(times), random=lambda: 0.0)
    with client, pytest.raises(RequestError):
        client.counts()


def test_known_answers_are_not_sent_again() -> None:
    """A second request has the ETag of the first answer, and a 304 is as good as the answer."""
    etags = []

    def answer(request: httpx.Request) -> httpx.Response:
        etags.append(request.headers.get("If-None-Match"))
        if etags[-1]:
            return httpx.Response(304)
        return httpx.Response(200, json={"failed": 3}, headers={"ETag": '"1"'})

    with Client(URL, transport=httpx.MockTransport(answer)) as client:
        assert [client.counts().failed for _ in range(3)] == [3, 3, 3]
    assert etags == [None, '"1"', '"1"']


def test_invalid_until() -> None:
    """A misspelled `until` is an error that says what is valid."""
    with Client(URL) as client, pytest.raises(ValueError, match="must be 'done' or 'any-done'"):
        client.wait("nightly", until="finished")  # type: ignore[call-overload]


def test_nothing_to_wait_for() -> None:
    """A wait for no job is over at once."""
    with Client(URL) as client:
        assert client.wait([]) == []
        assert list(client.watch([])) == []


@contextlib.contextmanager
def scripted(jobs: list[str], **script: list[Any]) -> Iterator[tuple[ScriptedServer, Statuses]]:
    """Run a scripted server."""
    statuses = Statuses(jobs)
    server = ScriptedServer(script, statuses)
    with Loop().running() as loop:
        loop.call(server.start)
        try:
            yield server, statuses
        finally:
            loop.call(server.stop)


def test_waits_at_the_same_time_share_their_connections(service_url: str, put: Put) -> None:
    """Waits of many tasks need one stream for each 100 jobs."""
    jobs = [uuid4() for _ in range(250)]
    for job in jobs:
        put(job)

    async def wait(url: str, streams: Callable[[], float]) -> list[Any]:
        async with AsyncClient(url, "secret") as client:
            waits = asyncio.gather(*(client.wait(job) for job in jobs))
            await until(lambda: streams() == 3)
            for job in jobs:
                put(job, state=JobState.SUCCEEDED)
            return list(await waits)

    with service(service_url) as http:
        streams = metric(http, "jobstatus_streams_open")
        found = asyncio.run(wait(str(http.base_url), streams))
        assert [details.id for details in found] == jobs
        assert {details.state for details in found} == {"succeeded"}
        eventually(lambda: streams() == 0)


def metric(http: httpx.Client, name: str) -> Callable[[], float]:
    """Return a function that reads a metric of the service."""

    def read() -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    return read


def test_job_that_is_added_while_a_stream_is_open(service_url: str, put: Put) -> None:
    """A wait that begins later joins the stream, which is opened again with its job."""
    first, second = uuid4(), uuid4()
    put(first)
    put(second)
    with service(service_url) as http, Client(str(http.base_url), "secret") as client:
        streams = metric(http, "jobstatus_streams_open")
        found: list[UUID] = []
        threads = [
            threading.Thread(target=lambda job=job: found.append(client.wait(job).id))
            for job in (first, second)
        ]
        threads[0].start()
        eventually(lambda: streams() == 1)
        threads[1].start()
        put(second, state=JobState.FAILED)
        threads[1].join(10)
        assert found == [second]
        eventually(lambda: streams() == 1)
        put(first, state=JobState.ABORTED)
        threads[0].join(10)
        assert found == [second, first]
        eventually(lambda: streams() == 0)
        eventually(lambda: threading.active_count() == threads_before(), 5)


def test_jobs_that_are_added_leave_no_connections() -> None:
    """Each job that is added opens the stream again; the old connection is closed."""
    others = [f"J{number}" for number in range(12)]
    streams = [
        {"stream": ["A in_progress 1", *(f"{name} succeeded" for name in others)], "end": "hold"}
    ]
    with scripted(["A", *others], events=streams) as (server, jobs), Client(server.url) as client:
        watching = client.watch(jobs.ids["A"])
        next(watching)
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        for name in others:
            assert client.wait(jobs.ids[name], timeout=10).state == "succeeded"
        eventually(lambda: server.open_streams == 1)
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 4
        watching.close()  # type: ignore[attr-defined]


def test_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose thread could not be started can be waited for later."""
    with scripted(["A"], events=[{"stream": ["A succeeded"]}]) as (server, jobs):
        with Client(server.url) as client:
            with monkeypatch.context() as patched:

                def start(_: Any) -> None:
                    raise RuntimeError("can't start new thread")

                patched.setattr(threading.Thread, "start", start)
                with pytest.raises(RuntimeError):
                    client.wait(jobs.ids["A"])
            assert client.wait(jobs.ids["A"], timeout=10).state == "succeeded"


async def test_jobs_that_are_added_while_the_credential_is_asked_for() -> None:
    """A slow function for credentials is not called again because jobs are added."""
    calls = 0

    async def credentials() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        return "token"

    names = ["A", "B", "C"]
    streams = [{"stream": [f"{name} succeeded" for name in names]}]
    with scripted(names, events=streams) as (server, jobs):
        async with AsyncClient(server.url, credentials) as client:
            waits = []
            for name in names:
                waits.append(asyncio.create_task(client.wait(jobs.ids[name], timeout=10)))
                await asyncio.sleep(0.2)
            await asyncio.gather(*waits)
    assert calls == 1


def test_answer_that_cannot_be_decompressed() -> None:
    """Garbage of a proxy is an error of the client's own."""

    def answer(_: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"nonsense")
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=stream)

    client = Client(URL, transport=httpx.MockTransport(answer), timeout=0)
    with client, pytest.raises(UnavailableError):
        client.counts()


def threads_before() -> int:
    """Return how many threads there are without those of clients."""
    return sum(thread.name != "jobstatus-client" for thread in threading.enumerate())


def test_close_ends_waits_of_other_threads() -> None:
    """Closing a client ends what waits with it, and its connections; it can't be used again."""
    with scripted(["A"], events=[{"stream": ["A in_progress 1"], "end": "hold"}]) as (server, jobs):
        client = Client(server.url, "secret")
        errors: list[Exception] = []

        def wait() -> None:
            try:
                client.wait(jobs.ids["A"])
            except ClientClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: server.open_streams == 1)
        client.close()
        thread.join(5)
        assert len(errors) == 1
        eventually(lambda: server.open_streams == 0)
        with pytest.raises(ClientClosedError):
            client.get(jobs.ids["A"])
        with pytest.raises(ClientClosedError):
            client.wait(jobs.ids["A"])


async def test_cancelled_task_ends_its_stream() -> None:
    """A cancelled wait closes its stream while the client stays open."""
    with scripted(["A"], events=[{"stream": ["A in_progress 1"], "end": "hold"}]) as (server, jobs):
        async with AsyncClient(server.url, "secret") as client:
            task = asyncio.create_task(client.wait(jobs.ids["A"]))
            await until(lambda: server.open_streams == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open_streams == 0)


def test_job_that_a_token_does_not_name() -> None:
    """If a token names one of two jobs only, the other wait goes on."""
    with scripted(
        ["A", "B"],
        events=[{"status": 403}, {"stream": ["A succeeded"]}],
        details=[{"job": "A in_progress 1"}, {"status": 403, "body": {"detail": "not B"}}],
    ) as (server, jobs):

        async def wait() -> list[Any]:
            async with AsyncClient(server.url, "token") as client:
                waits = (client.wait(jobs.ids[name]) for name in "AB")
                return await asyncio.gather(*waits, return_exceptions=True)

        first, second = asyncio.run(wait())
    assert first.state == "succeeded"
    assert str(second) == "not B"


def test_timeout_says_what_is_known() -> None:
    """The error of a wait has the statuses so far; times may be a timedelta."""
    script = [{"stream": ["A in_progress 40"], "end": "hold"}]
    with scripted(["A", "B"], events=script) as (server, jobs):
        with Client(server.url) as client, pytest.raises(WaitTimeoutError) as caught:
            client.wait(jobs.ids.values(), timeout=timedelta(seconds=0.5))
    known, unknown = caught.value.statuses
    assert known is not None
    assert (known.progress, unknown) == (40, None)
    assert str(caught.value) == "2 of 2 jobs have not finished in time."


def test_exception_of_the_function_for_credentials() -> None:
    """A function that fails now and then does not end a wait; a single request raises its error."""
    calls: list[float] = []

    def credentials() -> str:
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise OSError("the issuer of tokens is unavailable")
        return "token"

    with scripted(["A"], events=[{"stream": ["A succeeded"]}]) as (server, jobs):
        with Client(server.url, credentials) as client:
            assert client.wait(jobs.ids["A"], timeout=10).state == "succeeded"
        calls.clear()
        with Client(server.url, credentials, timeout=0) as client:
            with pytest.raises(OSError, match="the issuer of tokens is unavailable"):
                client.get(jobs.ids["A"])


def test_outage_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing works for some time, one warning says why."""
    monkeypatch.setattr("jobstatus_client.channel._LOG_AFTER_SECONDS", 0.2)
    with scripted(["A"], events=[{"status": 404, "body": "nothing here"}]) as (server, jobs):
        with Client(server.url) as client, pytest.raises(WaitTimeoutError):
            client.wait(jobs.ids["A"], timeout=2)
    (record,) = caplog.records
    assert record.name == "jobstatus_client"
    assert record.getMessage().startswith("the status of jobs can't be read, trying again: ")


@pytest.mark.parametrize("key", ["sec\nret", "sécret", "sec ret"])
def test_key_that_cannot_be_sent(key: str) -> None:
    """A key that a header can't hold is an error at once, which does not quote it."""
    with pytest.raises(SettingsError) as caught:
        Client(URL, key)
    assert key not in str(caught.value)
    with Client(URL, lambda: key) as client, pytest.raises(SettingsError):
        client.counts()


def test_white_space_around_a_key_is_ignored() -> None:
    """A key that was read from a file or a secret may end with a newline."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={})

    with Client(URL, "sesame\n", transport=httpx.MockTransport(answer)) as client:
        client.counts()
    assert seen == ["Bearer sesame"]


@pytest.mark.parametrize(
    "url",
    [
        "jobs.test",
        "http://",
        "http://[::1",
        "http://user:pw@jobs.test",
        f"{URL}?",
        f"{URL}#x",
        "http://a..b",
    ],
)
def test_invalid_url(url: str) -> None:
    """An address that can't be that of a service is an error at once."""
    with pytest.raises(SettingsError) as caught:
        Client(url)
    assert "pw" not in str(caught.value)


def test_invalid_arguments() -> None:
    """An argument of a wrong type, or an empty id, is an error that says so."""

    async def coroutine(_: Any) -> None:
        pass

    with Client(URL) as client:
        with pytest.raises(ValueError, match="a job id must not be empty"):
            client.wait("")
        with pytest.raises(TypeError, match="a job id must be a str or a UUID, not int"):
            client.wait(5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="a time must be seconds or a timedelta, not str"):
            client.wait("nightly", timeout="1h")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="on_change must be a plain function"):
            client.wait("nightly", on_change=coroutine)


def test_one_state_of_a_list() -> None:
    """A list takes one state as well as several."""
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(request.url.query.decode())
        return httpx.Response(200, json={"jobs": [], "next": None})

    with Client(URL, transport=httpx.MockTransport(answer)) as client:
        client.list("failed")
        client.list(["failed", JobState.ABORTED])
    assert urls == ["state=failed", "state=failed&state=aborted"]


def test_transport_of_the_caller_stays_open() -> None:
    """Only closing the client closes the transport that it was given."""
    closed: list[bool] = []

    class Transport(httpx.MockTransport):
        def close(self) -> None:
            closed.append(True)

    jobs = Statuses(["A"])
    body = f"event: status\ndata: {json.dumps(jobs.details('A succeeded'))}\n\n"
    with Client(URL, transport=Transport(lambda _: httpx.Response(200, text=body))) as client:
        assert client.wait(jobs.ids["A"], timeout=5).state == "succeeded"
        assert closed == []
    assert closed == [True]


def test_wait_without_a_limit() -> None:
    """An infinite timeout is no limit."""
    with scripted(["A"], events=[{"stream": [{"pause": 0.2}, "A succeeded"]}]) as (server, jobs):
        with Client(server.url) as client:
            status = client.wait(jobs.ids["A"], timeout=math.inf, unknown=math.inf)
    assert status.state == "succeeded"


def test_wait_for_a_new_run() -> None:
    """A new wait asks again, although somebody else knows how the last run has ended."""
    script = [
        {"stream": ["A succeeded @11", "B pending"], "end": "hold"},
        {"stream": ["A failed @12 run=2", "B pending"], "end": "hold"},
    ]
    with scripted(["A", "B"], events=script) as (server, jobs), Client(server.url) as client:
        watching = client.watch(list(jobs.ids.values()))
        assert next(watching).state == "succeeded"
        assert client.wait(jobs.ids["A"], timeout=10).state == "failed"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_function_for_credentials_that_exits() -> None:
    """If the function ends the thread that has called it, the waits end with an error."""

    def credentials() -> str:
        sys.exit("no")

    with Client(URL, credentials) as client:
        with pytest.raises(JobStatusError, match="can't be read any more"):
            client.wait("nightly", timeout=10)
        with pytest.raises(JobStatusError, match="can't be read any more"):
            client.wait("nightly", timeout=10)
    # pytest reports the exception of a thread with the test that runs when the thread ends.
    eventually(lambda: threading.active_count() == threads_before())


async def test_function_for_credentials_that_awaits_what_is_cancelled() -> None:
    """A cancellation inside the function is not one of the wait; it is tried again."""
    calls = 0

    async def credentials() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return "token"

    with scripted(["A"], events=[{"stream": ["A succeeded"]}]) as (server, jobs):
        async with AsyncClient(server.url, credentials) as client:
            assert (await client.wait(jobs.ids["A"], timeout=10)).state == "succeeded"


def test_slow_function_for_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that the function takes does not count as silence of a stream."""
    monkeypatch.setattr("jobstatus_client.event_stream.FIRST_EVENT_SECONDS", 1.0)

    def credentials() -> str:
        time.sleep(1.3)
        return "token"

    with scripted(["A"], events=[{"stream": ["A succeeded"]}], poll=[{"status": 500}]) as (
        server,
        jobs,
    ):
        with Client(server.url, credentials) as client:
            assert client.wait(jobs.ids["A"], timeout=20).state == "succeeded"
    assert [request.kind for request in server.requests] == ["events"]


def test_close_ends_a_list_that_is_followed() -> None:
    """Closing a client ends the loop over a list."""
    with scripted(["A"], events=[{"stream": [{"list": ["A pending"]}], "end": "hold"}]) as (
        server,
        _,
    ):
        client = Client(server.url)
        events = client.follow()
        assert next(events).kind == "list"
        threading.Timer(0.3, client.close).start()
        with pytest.raises(ClientClosedError):
            list(events)
        eventually(lambda: server.open_streams == 0)


def test_client_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, a client says that its threads and connections belong to the parent."""
    with Client(URL) as client:
        monkeypatch.setattr("jobstatus_client.core.os.getpid", lambda: 1)
        with pytest.raises(ClientClosedError, match="make one in each process"):
            client.wait("nightly")


def test_many_jobs_join_quickly() -> None:
    """The channels of thousands of jobs are found without looking at each of them."""
    with Client(URL, transport=httpx.MockTransport(lambda _: httpx.Response(503))) as client:
        started: list[Any] = []
        client._core.start = started.append
        with client._watched([uuid4() for _ in range(5_000)]):
            assert len(started) == 50


def test_cut_does_not_remove_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting a connection with TLS leaves TLS on: another thread may be about to send."""

    class Connection:
        def get_extra_info(self, _: str) -> ssl.SSLSocket:
            return secure

    left, right = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    secure = context.wrap_socket(left, do_handshake_on_connect=False)
    secure_object = secure._sslobj  # type: ignore[attr-defined]
    runner = ThreadRunner(httpx.Client(base_url=URL), threading.RLock(), lambda _: None)
    runner._on_http_event("connection.start_tls.complete", {"return_value": Connection()})
    runner.interrupt()
    assert secure._sslobj is secure_object  # type: ignore[attr-defined]
    assert right.recv(1) == b""
    secure.close()
    right.close()
