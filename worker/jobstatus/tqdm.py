"""`from jobstatus.tqdm import tqdm`: tqdm's progress bar, whose position is the job's progress.

Outside a job it behaves exactly like tqdm's.
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
    """tqdm's progress bar, with the same arguments.

    The loop of a disabled bar is tracked, too. A bar inside the loop of another bar counts as one
    step of the outer loop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.disable:
            current_job()._follow(_BarPosition(self))  # noqa: SLF001

    def __iter__(self) -> Iterator[Any]:
        if self.disable:
            yield from current_job().track(self.iterable, int(self.total or 0) or None)
        else:
            yield from super().__iter__()


class _BarPosition:
    """Reads the position of a bar, which tqdm updates ten times a second."""

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
    """Return `tqdm(range(*args), **kwargs)`."""
    return tqdm(range(*args), **kwargs)
