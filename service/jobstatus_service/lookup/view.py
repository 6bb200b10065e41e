"""How much of a job a client sees, and in which form."""

import enum


class View(enum.IntFlag):
    """The form in which a client sees the response about a job."""

    FULL = 0
    """The `JobStatus`, and whatever its reason contains."""

    WITHOUT_TRACEBACK = 1
    """A traceback that is stored as the job's result is hidden: it is for API keys only."""

    WITHOUT_ERRORS = 2
    """Reasons contain the type of an exception without its message."""

    DETAILS = 4
    """The `JobDetails` instead of the `JobStatus`."""
