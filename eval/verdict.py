"""The verdict of an evaluation: one line each on text alone, text after an image, and images."""

from collections.abc import Mapping
from typing import Any

from .compare.after_image import AfterImage
from .compare.bootstrap import Estimate
from .compare.comparison import ALL, Comparison
from .drift import Drift
from .image_drift import ImageDrift
from .scoring.accuracy import Accuracy

WORST = 3  # kinds that are named


def verdict(measurements: Mapping[str, Any]) -> list[str]:
    """A line for each of the three that was measured.

    Args:
        measurements: by their names in an `Evaluation`.
    """
    after, drift = measurements.get("after_image"), measurements.get("drift")
    # Without text questions, those of the conversations were asked alone too.
    text = measurements.get("text", after.alone if after else None)
    lines = []
    if text:
        lines.append(text_line(text, drift))
    if after:
        lines.append(after_image_line(after, measurements.get("drift_after_image")))
    if pictures := measurements.get("pictures"):
        lines.append(images_line(pictures))
    return lines


def text_line(text: Comparison, drift: Drift | None) -> str:
    """The verdict on text questions that are asked alone."""
    kept = "kept exactly" if drift is None or drift.kl.value == 0 else "all answers kept"
    line = f"Text alone: {_change(text, 'the LLM', kept)}"
    if drift:
        value = f"{drift.kl.value:.2g}{_between(drift.kl, '.2g')}"
        line += f" KL on held-out text is {value} nats a token."
    return line


def after_image_line(after: AfterImage, drift: ImageDrift | None) -> str:
    """The verdict on text questions after an image."""
    kind = after.after.kinds[0]
    alone = after.model_scores(kind).accuracies[0]
    reference = "the LLM after the same exchange in words"
    change = _change(after.after, reference, "all answers kept")
    line = f"Text after an image: {change} Asked alone, the model has {_percent(alone)} right."
    if lost := lost_most(after.after):
        line += f" Lost most: {'; '.join(lost)}."
    if drift:
        floor, image = drift.kl("words", ALL), drift.kl("image", ALL)
        line += (
            f" KL is {image.value:.2g}{_between(image, '.2g')} nats a token, "
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


def images_line(pictures: Comparison) -> str:
    """The verdict on questions about images."""
    paired = pictures.paired(pictures.kinds[0])
    before, after = paired.accuracies
    change = paired.difference
    return (
        f"Images: {_percent(after)} right, the LLM without the images {_percent(before)}: "
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
