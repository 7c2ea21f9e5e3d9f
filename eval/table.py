"""The table of a report: kept text and mixed beside learned pictures, with 95% intervals."""

from collections.abc import Sequence

from .outcome import Outcome
from .score import Score

HEADERS = ("", "LLM rate", "trained", "text", "mixed", "pictures", "training")


def cells(before: Score, outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows of strings under `HEADERS`; the first is the language model before any picture."""
    rows = [("the language model before", "", "", spelled(before), "", "", "")]
    for o in outcomes:
        scores = (spelled(o.text), spelled(o.mixed), spelled(o.pictures))
        rows.append((o.name, o.rate, thousands(o.trained), *scores, f"{o.seconds:.0f} s"))
    return rows


def markdown(before: Score, outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown."""
    lines = [HEADERS, ("---", *["---:"] * (len(HEADERS) - 1)), *cells(before, outcomes)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def spelled(score: Score) -> str:
    """`97.5 (94.6-98.9)`: percent and its 95% interval."""
    low, high = score.interval
    return f"{score.percent:.1f} ({low:.0f}-{high:.0f})"


def thousands(count: int) -> str:
    """`16k`, `1.2M`."""
    if count < 1_000_000:
        return f"{count / 1000:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 1e9 else f"{count / 1e9:.1f}B"
