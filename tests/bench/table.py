"""Medians, ratios and the table that shows them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Each contender's figures, taken in turn, so that all meet the same noise."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            figures[name].append(run())
    return figures


def ratio(figures: dict[str, list[float]], name: str, base: str) -> float:
    """The median of the ratios round by round: what drifts slowly drops out."""
    pairs = zip(figures[name], figures[base], strict=True)
    return median(a / b for a, b in pairs)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
