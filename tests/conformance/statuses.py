"""Statuses as scenarios write them: `A in_progress 40 @3 run=2 cause=lease_expired`.

`A` names the job, `40` is its progress, `@3` when it was updated (by default a second later than
the status before it in the scenario), `run` the number of the run.
"""

from typing import Any, Final
from uuid import UUID, uuid4

_TIME: Final = "2026-11-28T00:00:{:02d}.000Z"


class Statuses:
    """The jobs of one run of a scenario.

    Attributes:
        ids: The UUID of each job by its name.
    """

    def __init__(self, names: list[str]) -> None:
        self.ids = {name: str(uuid4()) for name in names}
        self._names = {uuid: name for name, uuid in self.ids.items()}
        self._updated: dict[str, int] = {}

    def details(self, text: str) -> dict[str, Any]:
        """Return the details that a scenario has written."""
        name, state, *words = text.split()
        options = dict(word.partition("=")[::2] for word in words if "=" in word)
        numbers = [word for word in words if "=" not in word and not word.startswith("@")]
        times = [int(word[1:]) for word in words if word.startswith("@")]
        second = times[0] if times else self._updated.setdefault(text, 10 + len(self._updated))
        is_final = state in {"succeeded", "failed", "aborted"}
        is_absent = options.get("cause") == "no_record"
        run = int(options.get("run", 1))
        progress = float(numbers[0]) if numbers else 100.0 if state == "succeeded" else 0.0
        epoch = "1970-01-01T00:00:00.000Z"
        return {
            "id": self.ids.setdefault(name, str(UUID(int=0))),
            "created_at": epoch if is_absent else _TIME.format(run),
            "updated_at": epoch if is_absent else _TIME.format(second),
            "name": "render",
            "reason": "",
            "has_progress": progress > 0,
            "progress": progress,
            "state": state,
            "started_at": None,
            "finished_at": _TIME.format(second) if is_final else None,
            "attempt": None if is_absent else 1,
            "worker": None,
            "eta_seconds": None,
            "expires_at": None,
            "has_result": False,
            "unknown_cause": options.get("cause"),
        }

    def text(self, status: dict[str, Any]) -> str:
        """Return a status as scenarios write it: job, state and progress."""
        name = self._names.get(status["id"], status["id"])
        progress = f" {status['progress']:g}" if status["progress"] else ""
        return f"{name} {status['state']}{progress}"
