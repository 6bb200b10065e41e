"""The application's functions that decide what the status of its jobs shows.

They are attributes of arq's settings class, or arguments of the worker: `status_outcome`,
`status_name` and `status_error`. An error in one of them is logged, and never harms the job.
"""

from collections.abc import Callable
from typing import Any

from jobstatus.arq.names import StatusName
from jobstatus.reporting.error_text import ErrorText, StatusError
from jobstatus.reporting.hook import Hook, hook_of
from jobstatus.reporting.report import Outcome

StatusOutcome = Callable[[str, Any], "Outcome | None"]
"""Returns the outcome of an attempt from its function's name and the value that it returned; None:
it has succeeded. For applications whose jobs report a failure by what they return."""


class StatusHooks:
    """The hooks of one worker.

    Attributes:
        status_name: The application's function for names, for pools; None if there is none.
        name: Returns the name of a job; None if there is no such hook.
        errors: Describes exceptions.
    """

    def __init__(
        self,
        *,
        outcome: StatusOutcome | None,
        name: StatusName | None,
        error: StatusError | None,
        error_detail: str,
    ) -> None:
        self.status_name = name
        self.name: Hook[str] | None = hook_of("status_name", name, str)
        self.errors = ErrorText(error_detail, hook_of("status_error", error, str))
        self._outcome = hook_of(
            "status_outcome", _only_final(outcome) if callable(outcome) else outcome, Outcome
        )

    def outcome_of(self, function: str, value: Any) -> Outcome | None:
        """Return what the application says of an attempt that has returned `value`, if anything."""
        return None if self._outcome is None else self._outcome(function, value)


def _only_final(hook: StatusOutcome) -> StatusOutcome:
    def run(function: str, value: Any) -> Outcome | None:
        outcome = hook(function, value)
        if isinstance(outcome, Outcome) and not outcome.state.is_final:
            # Only the job itself can have arq run it again, by an exception or by its report.
            raise ValueError(f"status_outcome must not return the state {outcome.state}")
        return outcome

    return run
