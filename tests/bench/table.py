"""Run the things that a benchmark compares in turn, and print tables of the results."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure every contender once per round, so that noise of the machine affects all alike.

    Returns:
        The results of each contender, one per round.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            figures[name].append(run())
    return figures


def ratio(figures: dict[str, list[float]], name: str, base: str) -> float:
    """Return the median of the ratios per round, so that a slow drift of the machine cancels."""
    pairs = zip(figures[name], figures[base], strict=True)
    return median(a / b for a, b in pairs)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
