"""The errors that jobstatus raises on purpose."""

import pytest

from jobstatus.errors import MissingExtraError, missing_extra


def test_missing_extra() -> None:
    """A missing module of another package becomes an error that names the extra to install."""
    error = missing_extra(ModuleNotFoundError(name="litestar.di"), "`x`", "service")
    assert isinstance(error, MissingExtraError)
    assert str(error) == "`x` needs litestar.di: pip install 'jobstatus[service]'"


@pytest.mark.parametrize("name", ["jobstatus", "jobstatus.status", "jobstatus_service.http", None])
def test_missing_module_of_jobstatus(name: str | None) -> None:
    """A missing module of jobstatus itself, or one without a name, stays the error that it is."""
    error = ModuleNotFoundError(name=name)
    assert missing_extra(error, "`x`", "service") is error
