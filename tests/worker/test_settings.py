"""Settings from the environment."""

from pathlib import Path

import pytest

from jobstatus.errors import SettingsError
from jobstatus.settings import PublisherSettings
from jobstatus_service.settings import ServiceSettings


def test_unset_stays_unset() -> None:
    """What is unset or empty keeps its default."""
    assert PublisherSettings.from_env({"JOBSTATUS_LEASE": ""}) == PublisherSettings()


def test_environment_is_read() -> None:
    """Each variable is read; what is given in code wins."""
    environ = {
        "JOBSTATUS_LEASE": "5",
        "JOBSTATUS_KEY_PREFIX": "t1",
        "JOBSTATUS_REPORT_INTERVAL": "0.5",
    }
    known = PublisherSettings.from_env(environ, report_interval=1.0)
    assert (known.lease, known.key_prefix, known.report_interval) == (5, "t1", 1)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("JOBSTATUS_LEASE", "soon"),
        ("JOBSTATUS_LEASE", "0"),
        ("JOBSTATUS_LEASE", "nan"),
        ("JOBSTATUS_RETENTION", "-1"),
        ("JOBSTATUS_REPORT_INTERVAL", "1e9"),
        ("JOBSTATUS_KEY_PREFIX", "a b"),
        ("JOBSTATUS_KEY_PREFIX", "{a}"),
        ("JOBSTATUS_KEY_PREFIX", "arq"),
        ("JOBSTATUS_KEY_PREFIX", "arq:job"),
        ("JOBSTATUS_MAX_HELD_RECORDS", "0"),
        ("JOBSTATUS_CLAIM_LEASE", "0.1"),
        ("JOBSTATUS_REDIS_URL", "http://x"),
        ("JOBSTATUS_NO_AUTH", "maybe"),
    ],
)
def test_bad_setting_is_named(variable: str, text: str) -> None:
    """A setting that can't be used is an error of one line that names the variable."""
    kind = ServiceSettings if "AUTH" in variable else PublisherSettings
    with pytest.raises(SettingsError, match=variable) as error:
        kind.from_env({variable: text})
    assert "\n" not in str(error.value)


def test_secret_comes_from_a_file(tmp_path: Path) -> None:
    """A URL with a password may stand in a file, and its text appears in no error."""
    file = tmp_path / "url"
    file.write_text("rediss://:pw@redis:6380/1\n")
    known = PublisherSettings.from_env({"JOBSTATUS_REDIS_URL_FILE": str(file)})
    assert known.redis_url == "rediss://:pw@redis:6380/1"
    file.write_text("sesame")
    with pytest.raises(SettingsError) as error:
        PublisherSettings.from_env({"JOBSTATUS_REDIS_URL_FILE": str(file)})
    assert "sesame" not in str(error.value)
    with pytest.raises(SettingsError, match="both set"):
        PublisherSettings.from_env(
            {"JOBSTATUS_REDIS_URL_FILE": str(file), "JOBSTATUS_REDIS_URL": "redis://x"}
        )
    with pytest.raises(SettingsError, match="readable file"):
        PublisherSettings.from_env({"JOBSTATUS_REDIS_URL_FILE": str(tmp_path / "none")})
