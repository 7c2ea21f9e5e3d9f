"""The table of a report: kept text and mixed beside learned pictures."""

from collections.abc import Sequence

from wings.eval.compare.method_result import MethodResult
from wings.eval.scoring.accuracy import Accuracy

HEADERS = ("", "trained", "text", "mixed", "pictures", "time")


def cells(
    before: Accuracy, outcomes: Sequence[MethodResult], intervals: bool = True
) -> list[tuple[str, ...]]:
    """Rows of strings under `HEADERS`; the first is the language model before any picture.

    Args:
        before: the language model's text score.
        outcomes: what became of it.
        intervals: whether a score shows its 95% interval.
    """
    spell = spelled if intervals else percent
    rows: list[tuple[str, ...]] = [("the language model before", "", spell(before), "", "", "")]
    for o in outcomes:
        scores = (spell(o.text), spell(o.mixed), spell(o.pictures))
        rows.append((o.title, thousands(o.trained), *scores, f"{o.seconds:.0f} s"))
    return rows


def markdown(before: Accuracy, outcomes: Sequence[MethodResult]) -> str:
    """The table in Markdown."""
    lines = [HEADERS, ("---", *["---:"] * (len(HEADERS) - 1)), *cells(before, outcomes)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def spelled(score: Accuracy) -> str:
    """`97.5 (94.6-98.9)`: percent and its 95% interval."""
    low, high = score.interval
    return f"{score.percent:.1f} ({low:.0f}-{high:.0f})"


def percent(score: Accuracy) -> str:
    """`97.5`."""
    return f"{score.percent:.1f}"


def thousands(count: int) -> str:
    """`16k`, `1.2M`."""
    if count < 1_000_000:
        return f"{count / 1000:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 1e9 else f"{count / 1e9:.1f}B"
