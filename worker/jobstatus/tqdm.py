"""`from jobstatus.tqdm import tqdm`: tqdm's own bar, whose position is the job's progress.

Outside a job it is tqdm and nothing else.
"""

from collections.abc import Iterator
from typing import Any

try:
    from tqdm.auto import tqdm as _tqdm
except ModuleNotFoundError:
    from jobstatus.errors import MissingExtraError

    raise MissingExtraError("jobstatus.tqdm needs tqdm: pip install tqdm") from None

from jobstatus.reporting.current import current_job

__all__ = ["tqdm", "trange"]


class tqdm(_tqdm):  # type: ignore[type-arg] # noqa: N801 - tqdm's own name
    """tqdm's bar; takes what tqdm takes.

    A bar that is disabled draws nothing, and its loop is tracked all the same. A bar inside
    another one's loop counts for one step of it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.disable:
            current_job().follow(_Position(self))

    def __iter__(self) -> Iterator[Any]:
        if self.disable:
            yield from current_job().track(self.iterable, int(self.total or 0) or None)
        else:
            yield from super().__iter__()


class _Position:
    """Reads a bar's position. tqdm itself brings it up to date ten times a second."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    @property
    def reason(self) -> str | None:
        return self._bar.desc.removesuffix(": ") if self._bar.desc else None

    @property
    def total(self) -> int | None:
        return self._bar.total or None

    @property
    def has_ended(self) -> bool:
        return bool(self._bar.disable)  # tqdm disables a bar that is closed

    def done(self) -> int:
        return int(self._bar.n)


def trange(*args: int, **kwargs: Any) -> tqdm:
    """`tqdm(range(*args), **kwargs)`."""
    return tqdm(range(*args), **kwargs)
