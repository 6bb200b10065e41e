"""Settings from the environment."""

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from jobstatus.arq.process_settings import ProcessSettings
from jobstatus.errors import SettingsError
from jobstatus.settings import (
    KNOWN_VARIABLES,
    EnvSettings,
    Parser,
    PublisherSettings,
    choice,
    key_prefix,
    number,
    parse_variable,
    readable_file,
    redis_url,
    switch,
    warn_about_unknown_variables,
    whole_number,
)
from jobstatus_service.settings import ServiceSettings

URL_FILE = "JOBSTATUS_REDIS_URL_FILE"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (number(1, 86_400), "1", 1.0),
        (number(1, 86_400), "86400", 86_400.0),
        (number(0.01, 60), "2.5", 2.5),
        (whole_number(1, 10), "10", 10),
        (whole_number(1), "1", 1),
        (whole_number(1), "1000000000000", 1_000_000_000_000),
        (switch, "1", True),
        (switch, "On", True),
        (switch, "TRUE", True),
        (switch, "yes", True),
        (switch, "0", False),
        (switch, "off", False),
        (switch, "False", False),
        (switch, "no", False),
        (choice("text", "json"), "json", "json"),
        (key_prefix, "tenant:one", "tenant:one"),
        (key_prefix, "arquebus", "arquebus"),
        (redis_url, "redis://h:1/2", "redis://h:1/2"),
        (readable_file, __file__, __file__),
    ],
)
def test_parsers(parse: Parser, text: str, value: object) -> None:
    """A parser returns the value of a valid text."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (number(1, 86_400), "soon", "X must be a number from 1 to 86400 seconds, not 'soon'"),
        (number(1, 86_400), "0.9", "X must be a number from 1 to 86400 seconds, not '0.9'"),
        (number(1, 86_400), "86401", "X must be a number from 1 to 86400 seconds, not '86401'"),
        (number(0.01, 60), "nan", "X must be a number from 0.01 to 60 seconds, not 'nan'"),
        (
            *(number(0, 9, "requests a second"), "-1"),
            "X must be a number from 0 to 9 requests a second, not '-1'",
        ),
        (number(0, 9, ""), "10", "X must be a number from 0 to 9, not '10'"),
        (whole_number(1, 10), "0", "X must be a whole number from 1 to 10, not '0'"),
        (whole_number(1, 10), "2.5", "X must be a whole number from 1 to 10, not '2.5'"),
        (whole_number(1), "0", "X must be a whole number of at least 1, not '0'"),
        (whole_number(1), "x", "X must be a whole number of at least 1, not 'x'"),
        (switch, "maybe", "X must be 1 or 0, not 'maybe'"),
        (choice("text", "json"), "xml", "X must be text or json, not 'xml'"),
        (key_prefix, "a b", r"X must be one word without { } * ? [ ] \, not 'a b'"),
        (key_prefix, "{a}", r"X must be one word without { } * ? [ ] \, not '{a}'"),
        (key_prefix, "", r"X must be one word without { } * ? [ ] \, not ''"),
        *(
            (
                *(key_prefix, text),
                f"X must not be `arq` or begin with `arq:`, which arq's own keys do, not '{text}'",
            )
            for text in ("arq", "arq:job")
        ),
        (
            *(readable_file, "/no/file"),
            "X must name a readable file, not '/no/file' (No such file or directory)",
        ),
    ],
)
def test_messages_of_parsers(parse: Parser, text: str, message: str) -> None:
    """The message about an invalid text is a sentence that names the variable."""
    with pytest.raises(SettingsError) as error:
        parse_variable("X", text, parse)
    assert str(error.value) == message


def test_message_of_redis_url() -> None:
    """The message about an invalid URL says why it is not valid, and does not contain it."""
    with pytest.raises(SettingsError, match=r"^X is not valid: it must start with one of") as error:
        parse_variable("X", "http://secret", redis_url, secret=True)
    assert "secret" not in str(error.value)


def test_environment_is_read() -> None:
    """Each variable is read; an argument takes precedence."""
    environ = {
        "JOBSTATUS_LEASE": "5",
        "JOBSTATUS_KEY_PREFIX": "t1",
        "JOBSTATUS_REPORT_INTERVAL": "0.5",
    }
    settings = PublisherSettings.from_env(environ, report_interval=1.0)
    assert (settings.lease, settings.key_prefix, settings.report_interval) == (5, "t1", 1)


def test_unset_and_empty_variables() -> None:
    """A variable that is unset or empty leaves the default."""
    environ = {"JOBSTATUS_LEASE": "", URL_FILE: ""}
    assert PublisherSettings.from_env(environ) == PublisherSettings()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("JOBSTATUS_LEASE", "0"),
        ("JOBSTATUS_RETENTION", "-1"),
        ("JOBSTATUS_REPORT_INTERVAL", "1e9"),
        ("JOBSTATUS_KEY_PREFIX", "arq"),
        ("JOBSTATUS_MAX_HELD_RECORDS", "0"),
        ("JOBSTATUS_CLAIM_LEASE", "0.1"),
        ("JOBSTATUS_REDIS_URL", "http://x"),
        ("JOBSTATUS_REDIS_CA_FILE", "/no/file"),
    ],
)
def test_invalid_variable_is_named(variable: str, text: str) -> None:
    """The error about an invalid variable is one line that begins with its name."""
    with pytest.raises(SettingsError, match=f"^{variable} ") as error:
        PublisherSettings.from_env({variable: text})
    assert "\n" not in str(error.value)


def test_durations() -> None:
    """A duration may be a timedelta, which is kept in seconds."""
    settings = PublisherSettings(lease=timedelta(minutes=2), retention=timedelta(days=1))  # type: ignore[arg-type]
    assert (settings.lease, settings.retention) == (120, 86_400)
    settings = PublisherSettings.from_env({}, report_interval=timedelta(milliseconds=20))
    assert settings.report_interval == 0.02


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a file with a URL."""
    file = tmp_path / "url"
    file.write_text("rediss://:pw@redis:6380/1\n")
    return file


def test_secret_from_a_file(file: Path) -> None:
    """A URL may be in a file, whose path is kept."""
    settings = PublisherSettings.from_env({URL_FILE: str(file)})
    assert settings.redis_url == "rediss://:pw@redis:6380/1"
    assert settings.redis_url_file == str(file)


def test_invalid_secret_in_a_file(file: Path) -> None:
    """The text of an invalid secret is in no error."""
    file.write_text("sesame")
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_REDIS_URL is not valid") as error:
        PublisherSettings.from_env({URL_FILE: str(file)})
    assert "sesame" not in str(error.value)


def test_secret_that_is_given_twice(file: Path) -> None:
    """A secret may be in the variable or in the file, not in both."""
    environ = {URL_FILE: str(file), "JOBSTATUS_REDIS_URL": "redis://x"}
    with pytest.raises(SettingsError, match=f"JOBSTATUS_REDIS_URL and {URL_FILE} are both set"):
        PublisherSettings.from_env(environ)


@pytest.mark.parametrize("content", [None, b"redis://\xff"])
def test_unreadable_file_of_a_secret(file: Path, content: bytes | None) -> None:
    """A file that is missing or not UTF-8 is an error that names its variable."""
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^{URL_FILE} must name a readable file: "):
        PublisherSettings.from_env({URL_FILE: str(file)})


@pytest.mark.parametrize(
    "settings",
    [
        PublisherSettings(redis_url="redis://:sesame@h"),
        ProcessSettings(redis_url="redis://:sesame@h", queue_url="redis://:sesame@h"),
        ServiceSettings(redis_url="redis://:sesame@h", api_keys=("sesame",)),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_repr_contains_no_secret(settings: EnvSettings) -> None:
    """URLs and API keys are not in the repr."""
    assert "sesame" not in repr(settings)
    assert "key_prefix='job'" in repr(settings)


NOT_SETTINGS = {
    *("TOKEN_KEY", "TOKEN_KEY_FILE", "TRACES", "METRICS_DIR", "JOB_ID", "REPORT_FILE"),
    *("URL", "KEY", "KEY_FILE"),
}
"""Variables that are read without a settings class."""


def test_known_variables() -> None:
    """The known variables are those that some settings class reads, and a few others."""
    names = set(NOT_SETTINGS)
    for kind in (PublisherSettings, ProcessSettings, ServiceSettings):
        variables = [field.metadata for field in fields(kind) if "env" in field.metadata]
        names |= {metadata["env"] for metadata in variables}
        names |= {f"{metadata['env']}_FILE" for metadata in variables if metadata["in_file"]}
    assert {f"JOBSTATUS_{name}" for name in names} == KNOWN_VARIABLES


@pytest.fixture
def no_warnings_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which unknown variables were logged, as in a new process."""
    monkeypatch.setattr("jobstatus.settings._warned", set())


@pytest.mark.usefixtures("no_warnings_yet")
def test_unknown_variable(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown variable is logged once, with the most similar known one."""
    environ = {"JOBSTATUS_LEESE": "5", "JOBSTATUS_LEASE": "5", "LEESE": "5"}
    for _ in range(2):
        warn_about_unknown_variables(environ)
    assert caplog.messages == [
        "JOBSTATUS_LEESE is ignored: there is no such setting; did you mean JOBSTATUS_LEASE?"
    ]


@pytest.mark.usefixtures("no_warnings_yet")
def test_several_unknown_variables(caplog: pytest.LogCaptureFixture) -> None:
    """Each unknown variable is logged; without a similar one, the README is named."""
    warn_about_unknown_variables({"JOBSTATUS_QQQQQQQQQQQQQQQQ": "", "JOBSTATUS_RETENTON": ""})
    first, second = caplog.messages
    assert first.startswith("JOBSTATUS_QQQQQQQQQQQQQQQQ is ignored")
    assert first.endswith("see the README for those there are")
    assert second.startswith("JOBSTATUS_RETENTON is ignored")
    assert second.endswith("did you mean JOBSTATUS_RETENTION?")


@pytest.mark.usefixtures("no_warnings_yet")
def test_environment_of_the_process_is_checked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading the settings from the environment of the process warns about unknown variables."""
    monkeypatch.setenv("JOBSTATUS_LEESE", "5")
    PublisherSettings.from_env()
    assert "did you mean JOBSTATUS_LEASE?" in caplog.text
