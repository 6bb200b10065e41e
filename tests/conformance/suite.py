"""Runs all scenarios with one client: towards the scripted server, and the real service."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tests.conformance.scenario import Run, runs_of, scenarios_of
from tests.conformance.scripted_server import Loop, ScriptedServer
from tests.conformance.timeline import play
from tests.service.conftest import Put

Driver = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Carries out tasks at the same time with one client each; returns their outcomes."""

SCRIPTED = scenarios_of("scripted.yaml")
REAL = scenarios_of("service.yaml")

_AT_ONCE = 130
_SETTLE_SECONDS = 1.0


def run_scripted(driver: Driver, step: int) -> dict[str, list[str]]:
    """Run the scenarios of the scripted server; return the faults by scenario.

    Args:
        driver: Carries out the tasks with a client.
        step: Streams that are to be cut after every byte are cut after every so many bytes.
    """
    runs = [run for scenario in SCRIPTED for run in runs_of(scenario, step)]
    faults: dict[str, list[str]] = defaultdict(list)
    groups = [[r for r in runs if r.group == group] for group in ("alone", "variants", "clock")]
    batches = [group[i : i + _AT_ONCE] for group in groups for i in range(0, len(group), _AT_ONCE)]
    for batch in batches:
        servers = [ScriptedServer(run.scenario["server"], run.statuses) for run in batch]
        with Loop().running() as loop:
            loop.call(lambda servers=servers: _each(servers, ScriptedServer.start))  # type: ignore[misc]
            outcomes = driver(
                [run.task(server.url) for run, server in zip(batch, servers, strict=True)]
            )
            if any("streams_left" in run.scenario["expect"] for run in batch):
                time.sleep(_SETTLE_SECONDS)  # a client may close its stream after its last word
            for run, server, outcome in zip(batch, servers, outcomes, strict=True):
                faults[run.name] += [run.variant + each for each in run.faults(outcome, server)]
            loop.call(lambda servers=servers: _each(servers, ScriptedServer.stop))  # type: ignore[misc]
    return faults


def run_real(driver: Driver, url: str, put: Put) -> dict[str, list[str]]:
    """Run the scenarios of the real service; return the faults by scenario."""
    runs = [Run(scenario) for scenario in REAL]
    with play(runs, put):
        outcomes = driver([run.task(url) for run in runs])
    return {
        run.name: run.faults(outcome, None) for run, outcome in zip(runs, outcomes, strict=True)
    }


async def _each(servers: list[ScriptedServer], function: Callable[[ScriptedServer], Any]) -> None:
    await asyncio.gather(*map(function, servers))


def names_of(scenarios: list[dict[str, Any]]) -> list[str]:
    """Return the names of scenarios, which differ."""
    names = [scenario["name"] for scenario in scenarios]
    assert len(set(names)) == len(names)
    return names
