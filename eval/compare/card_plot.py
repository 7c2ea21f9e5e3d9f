"""The plot of a model card: text alone, text after items of senses and these, from a report."""

import io
from collections.abc import Mapping
from typing import Any

from wings.eval.senses import EVERY, SENSES

from .paired import PairedScores, paired_plot

# Measurements of a report, and what they are called in the plot.
NAMES = {
    "text": "text alone",
    **{sense.conversations: f"text after {sense.one}" for sense in EVERY},
    **{sense.questions: sense.many for sense in SENSES.values()},
}
DPI = 200


def card_plot(report: Mapping[str, Any]) -> bytes | None:
    """A PNG of a report's accuracies and differences, as `report.html` plots them.

    Args:
        report: the content of report.json.

    Returns:
        The picture; None if nothing that it shows was measured.
    """
    seed = int((report.get("seeds") or {}).get("bootstrap", 0))
    named = {
        title: scores_of(report["measurements"][name]["answers"], seed)
        for name, title in NAMES.items()
        if (report["measurements"].get(name) or {}).get("answers")
    }
    if not named:
        return None
    stream = io.BytesIO()
    paired_plot(named).savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def scores_of(answers: list[dict[str, Any]], seed: int) -> PairedScores:
    """The scores of the LLM and of the model, from the answers that a report lists."""
    before, after = ([one["right"][n] for one in answers] for n in (0, 1))
    return PairedScores(before, after, seed, [one["cluster"] for one in answers])
