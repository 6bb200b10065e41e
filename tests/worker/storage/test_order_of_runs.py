"""The script orders the runs of a job correctly although the clocks of workers are wrong."""

import itertools
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.write import SCRIPT, Write, result_of

KEY = "job:1"


class Event(NamedTuple):
    """Something that happens to a run, and the write that reports it.

    Attributes:
        run: The number of the run, in the order in which the runs were enqueued.
        created: Identifies the run; by the clock of the enqueueing machine, which may be wrong.
        state: The state that is reported.
        began_at: When the run or attempt began, ms by a correct clock.
        happened_at: When the reported event happened, ms by a correct clock.
        delivered_at: When the write is executed, ms by a correct clock.
    """

    run: int
    created: int
    state: JobState
    began_at: int
    happened_at: int
    delivered_at: int


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Generate runs of one job, one after the other, enqueued by machines with wrong clocks.

    Any report may be missing or late. A worker may go on reporting its attempt long after another
    worker has ended the run, as a process does that was frozen.
    """
    now, events, used = 10_000_000, list[Event](), set[int]()
    for run in range(draw(st.integers(2, 5))):
        enqueued = now + draw(st.integers(2, 3_000))
        began_at = enqueued + draw(st.integers(2, 3_000))
        now = ended = began_at + draw(st.integers(2, 3_000))
        created = enqueued + draw(st.integers(-20_000, 20_000))
        created = next(c for c in itertools.count(created) if c not in used)
        used.add(created)
        late = st.just(0) | st.integers(0, 20_000)
        final = draw(st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED]))
        reports = [
            (JobState.PENDING, enqueued, enqueued, enqueued + draw(late)),
            (JobState.IN_PROGRESS, began_at, began_at, began_at),
            (final, began_at, ended, ended + draw(late)),
        ]
        events += [Event(run, created, *each) for each in reports if draw(st.integers(0, 3))]
        events += [
            Event(run, created, JobState.IN_PROGRESS, began_at, after, after)
            for after in draw(st.lists(st.integers(ended + 30_000, ended + 60_000), max_size=2))
        ]
    return sorted(events, key=lambda event: event.delivered_at)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories())
def test_runs_are_ordered_without_clocks(redis: Any, events: list[Event]) -> None:
    """The latest reported run is stored; late writes of earlier runs change nothing."""
    redis.delete(KEY)
    script = redis.register_script(
        SCRIPT.replace(
            "redis.call('TIME')", "{math.floor(ARGV[16] / 1000), ARGV[16] % 1000 * 1000}"
        )
    )
    latest = -1
    for run, created, state, began_at, happened_at, delivered_at in events:
        record = Record(name="a", state=state, created=created, attempt=int(state != "pending"))
        is_running = state is JobState.IN_PROGRESS
        write = Write(
            KEY,
            record,
            60_000,
            5_000 if is_running else 0,
            began_at=began_at / 1000,
            happened_at=None if is_running else happened_at / 1000,
        )
        is_superseded_worker = is_running and happened_at != began_at
        if is_superseded_worker and run >= latest:
            continue  # no later run has been reported, so this one is the latest
        result = script(
            keys=[KEY], args=[*write.arguments(delivered_at / 1000), "", "", delivered_at]
        )
        assert result // 8 == delivered_at
        if run < latest:
            assert result_of(result) is WriteResult.SUPERSEDED
        latest = max(latest, run)
        latest_created = next(event.created for event in events if event.run == latest)
        assert int(redis.hget(KEY, "created")) == latest_created
