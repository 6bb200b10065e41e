"""The scenarios of the YAML files, and whether a client has behaved as they demand."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml
from tests.conformance.scripted_server import ScriptedServer
from tests.conformance.statuses import Statuses

FOLDER: Final = Path(__file__).parent / "scenarios"

PATIENCE_SECONDS: Final = 3.0
"""On a busy machine everything may take so much longer than a scenario says."""

_KEYS: Final = {
    *("name", "do", "jobs", "ids", "options", "credentials", "client_timeout", "stop_after"),
    *("cancel_after", "jump_clock", "server", "world", "expect"),
}
_EXPECTATIONS: Final = {
    *("yields", "yields_some_of", "returns", "error", "requests", "gap", "headers", "seconds"),
    *("streams_left", "message"),
}


class Run:
    """One run of a scenario.

    Attributes:
        scenario: What the file says.
        name: The name of the scenario, and which of its variants it is.
        statuses: Its jobs.
    """

    def __init__(self, scenario: dict[str, Any], variant: str = "") -> None:
        self.scenario = scenario
        self.name: str = scenario["name"]
        self.variant = variant
        self.statuses = Statuses(scenario.get("jobs", []))

    @property
    def group(self) -> str:
        """Which runs it may share the client's process with: some change its clock."""
        return "clock" if "jump_clock" in self.scenario else "variants" if self.variant else "alone"

    def task(self, url: str) -> dict[str, Any]:
        """Return what a driver is to do."""
        names = self.scenario.get("ids") or list(self.statuses.ids)
        ids = [self.statuses.ids[name] for name in names]
        keys = ("do", "options", "credentials", "client_timeout", "stop_after", "cancel_after")
        given = {
            name: self.scenario[name] for name in (*keys, "jump_clock") if name in self.scenario
        }
        return {
            "url": url,
            "ids": ids[0] if len(ids) == 1 else ids,
            "credentials": "secret",
        } | given

    def faults(self, outcome: dict[str, Any], server: ScriptedServer | None) -> list[str]:
        """Return how a client's behaviour differs from what the scenario demands."""
        expect = self.scenario["expect"]
        error = outcome["error"] or {}
        yields = [self._text(each) for each in outcome["yielded"]]
        if error and "error" not in expect:
            return [f"an error: {error}"]
        tests: dict[str, tuple[Any, Callable[[Any], bool]]] = {
            "yields": (yields, lambda wanted: yields == wanted),
            # A slow client may skip statuses, but not the last one.
            "yields_some_of": (
                yields,
                lambda wanted: _is_subsequence(yields, wanted) and yields[-1:] == wanted[-1:],
            ),
            "returns": (returned := self._returned(outcome), lambda wanted: returned == wanted),
            "error": (error, lambda wanted: {**error, **wanted} == error),
            "message": (error, lambda wanted: wanted in error.get("message", "")),
            "seconds": (
                outcome["seconds"],
                lambda wanted: wanted[0] <= outcome["seconds"] <= wanted[1] + PATIENCE_SECONDS,
            ),
        }
        found = [
            f"{name}: {actual!r} instead of {expect[name]!r}"
            for name, (actual, is_right) in tests.items()
            if name in expect and not is_right(expect[name])
        ]
        return found if server is None else found + self._faults_of_requests(server)

    def _returned(self, outcome: dict[str, Any]) -> Any:
        returned = outcome["returned"]
        if isinstance(returned, list):
            return [self._text(each) for each in returned]
        is_status = isinstance(returned, dict) and "state" in returned
        return self._text(returned) if is_status else returned

    def _faults_of_requests(self, server: ScriptedServer) -> list[str]:
        expect = self.scenario["expect"]
        found = []
        for kind, wanted in expect.get("requests", {}).items():
            low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
            number = sum(kind in {request.kind, "all"} for request in server.requests)
            if not low <= number <= high:
                found.append(f"{number} requests of the kind {kind} instead of {wanted}")
        if "gap" in expect:
            low, high = expect["gap"]
            times = [request.at for request in server.requests]
            gap = times[1] - times[0] if len(times) > 1 else float("inf")
            if not low <= gap <= high + PATIENCE_SECONDS:
                found.append(
                    f"{gap:.2f} s between the first two requests instead of {expect['gap']}"
                )
        for kind, numbers in expect.get("headers", {}).items():
            requests = [request for request in server.requests if request.kind == kind]
            for number, headers in numbers.items():
                for name, value in headers.items():
                    actual = (
                        requests[number - 1].headers.get(name) if len(requests) >= number else "?"
                    )
                    if actual != value:
                        found.append(f"{name} of {kind} {number}: {actual!r} instead of {value!r}")
        left = expect.get("streams_left")
        if left is not None and server.open_streams != left:
            found.append(f"{server.open_streams} open streams at the end")
        return found

    def _text(self, each: dict[str, Any]) -> str:
        if "state" in each:
            return self.statuses.text(each)
        kind = each["type"]
        if kind == "list":
            return f"list: {', '.join(self.statuses.text(job) for job in each['jobs'])}"
        if kind == "status":
            return f"status: {self.statuses.text(each['job'])}"
        return str(kind)


def _is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in part)


def scenarios_of(file: str) -> list[dict[str, Any]]:
    """Return the scenarios of a file; a misspelled word is an error."""
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))
    for scenario in found:
        unknown = set(scenario) - _KEYS | set(scenario["expect"]) - _EXPECTATIONS
        assert not unknown, f"{scenario['name']}: {unknown}"
        assert scenario["expect"], scenario["name"]
    return found


def runs_of(scenario: dict[str, Any], step: int) -> list[Run]:
    """Return the runs of a scenario: several where a stream is cut after each `step` bytes."""
    for kind, answers in scenario.get("server", {}).items():
        for number, answer in enumerate(answers):
            if isinstance(answer, dict) and answer.get("cut_after") == "every byte":
                names = Statuses(scenario["jobs"])
                size = ScriptedServer({}, names).size_of_stream(answer)
                runs = []
                for position in range(0, size + 1, step):
                    variant = copy.deepcopy(scenario)
                    variant["server"][kind][number]["cut_after"] = position
                    runs.append(Run(variant, f" after {position} bytes"))
                return runs
    return [Run(scenario)]
