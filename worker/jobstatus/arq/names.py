"""The names under which jobs are shown: a function's name, or what the application says."""

from collections.abc import Callable
from typing import Any

from jobstatus.reporting.hook import Hook

StatusName = Callable[[str, tuple[Any, ...], dict[str, Any]], "str | None"]
"""Returns the name of a job from its function's name, arguments and keyword arguments; None: the
function's name. For applications that run every job through one dispatcher function."""


def name_of(
    hook: Hook[str] | None, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """Return the name of a job; an error in the hook leaves the function's name."""
    name = None if hook is None else hook(function, args, kwargs)
    return name or function
