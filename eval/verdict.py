"""The verdict of an evaluation: a line on text alone, on text after each sense, and on each."""

from collections.abc import Mapping
from typing import Any

from .compare.after_sense import AfterSense
from .compare.bootstrap import Estimate
from .compare.comparison import ALL, Comparison
from .drift import Drift
from .scoring.accuracy import Accuracy
from .sense_drift import SenseDrift
from .senses import EVERY, SENSES, EvalSense

WORST = 3  # kinds that are named


def verdict(measurements: Mapping[str, Any]) -> list[str]:
    """A line for each of these that was measured.

    Args:
        measurements: by their names in an `Evaluation`.
    """
    groups = [measurements[sense.after] for sense in EVERY if sense.after in measurements]
    # Without text questions, those of the conversations were asked alone too.
    text = measurements.get("text", groups[0].alone if groups else None)
    lines = []
    if text:
        lines.append(text_line(text, measurements.get("drift")))
    lines += [after_line(after, measurements.get(after.sense.drift)) for after in groups]
    for sense in SENSES.values():
        if questions := measurements.get(sense.questions):
            lines.append(sense_line(sense, questions))
    return lines


def text_line(text: Comparison, drift: Drift | None) -> str:
    """The verdict on text questions that are asked alone."""
    kept = "kept exactly" if drift is None or drift.kl.value == 0 else "all answers kept"
    line = f"Text alone: {_change(text, 'the LLM', kept)}"
    if drift:
        value = f"{drift.kl.value:.2g}{_between(drift.kl, '.2g')}"
        line += f" KL on held-out text is {value} nats a token."
    return line


def after_line(after: AfterSense, drift: SenseDrift | None) -> str:
    """The verdict on text questions after items of a sense."""
    kind = after.after.kinds[0]
    alone = after.model_scores(kind).accuracies[0]
    reference = "the LLM after the same exchange in words"
    change = _change(after.after, reference, "all answers kept")
    line = f"Text after {after.sense.one}: {change}"
    line += f" Asked alone, the model has {_percent(alone)} right."
    if lost := lost_most(after.after):
        line += f" Lost most: {'; '.join(lost)}."
    if drift:
        floor, found = drift.kl("words", ALL), drift.kl("after", ALL)
        line += (
            f" KL is {found.value:.2g}{_between(found, '.2g')} nats a token, "
            f"its floor {floor.value:.2g}{_between(floor, '.2g')}."
        )
    return line


def lost_most(comparison: Comparison) -> list[str]:
    """The kinds with the largest falls, largest first, with their figures; empty for one kind."""
    pairs = {kind: comparison.paired(kind) for kind in comparison.kinds[1:]}
    falls = {kind: pair.difference for kind, pair in pairs.items() if pair.difference.value < 0}
    lost = []
    for kind, change in sorted(falls.items(), key=lambda fall: fall[1].value)[:WORST]:
        before, after = pairs[kind].accuracies
        lost.append(
            f"{kind}, from {before.percent:.1f} to {after.percent:.1f}%, "
            f"{change.value:+.1f} points{_between(change)}"
        )
    return lost


def sense_line(sense: EvalSense, questions: Comparison) -> str:
    """The verdict on questions about items of a sense."""
    paired = questions.paired(questions.kinds[0])
    before, after = paired.accuracies
    change = paired.difference
    return (
        f"{sense.many.capitalize()}: {_percent(after)} right, the LLM without the {sense.many} "
        f"{_percent(before)}: "
        f"{change.value:+.1f} points{_between(change)}."
    )


def _change(comparison: Comparison, reference: str, kept: str) -> str:
    """Says `kept` if all answers are the reference's, else how many are and what that changed."""
    kind = comparison.kinds[0]
    paired, same = comparison.paired(kind), comparison.same_answers(kind)
    before, after = paired.accuracies
    if same.right == same.total:
        right = _percent(after)
        return f"{kept}. All {same.total:,} answers are those of {reference}, {right} right."
    change = paired.difference
    return (
        f"changed by {change.value:+.1f} points{_between(change)}. {_percent(after)} right, "
        f"{reference} {_percent(before)}; {_percent(same)} of the answers are the same."
    )


def _percent(accuracy: Accuracy) -> str:
    """`97.5% (95-99)`."""
    low, high = accuracy.interval
    return f"{accuracy.percent:.1f}% ({low:.0f}-{high:.0f})"


def _between(estimate: Estimate, form: str = ".1f") -> str:
    """` (low to high)`; empty without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({estimate.low:{form}} to {estimate.high:{form}})"
