"""The state of a request."""

from typing import Any

from jobstatus_service.http.request_state import RequestState, request_state


def test_one_state_per_request() -> None:
    """The first call creates the state, and each later one returns it."""
    scope: dict[str, Any] = {}
    state = request_state(scope)
    assert state == RequestState()
    assert request_state(scope) is state
    assert request_state({}) is not state


def test_other_state_is_kept() -> None:
    """What others have put into the scope's state is kept."""
    scope = {"state": {"theirs": 1}}
    request_state(scope)
    assert scope["state"]["theirs"] == 1


def test_copy_of_a_scope_has_the_same_state() -> None:
    """A HEAD request and the GET request that is made of it share their state."""
    scope: dict[str, Any] = {"method": "HEAD"}
    state = request_state(scope)
    assert request_state({**scope, "method": "GET"}) is state
