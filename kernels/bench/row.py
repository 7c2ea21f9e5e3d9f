"""`Row`: one measured ratio, or the reason why there is none."""

from dataclasses import asdict, dataclass
from typing import Any

# What is compared.
BARE, AGAIN, SDPA = "bare LLM", "again", "SDPA"
WINGS, PLAIN, TEXTBOOK, FLEX = "wings", "wings in torch", "textbook", "flex_attention"
# No version, but a bound: the products of one and its fused attention, alone.
PRODUCTS = "products"
# What has to pass a check before it is timed.
OURS = (WINGS, PLAIN)

# What is measured.
FORWARD, STEP, MEMORY, DECODING = "forward", "training step", "training memory", "decoding"
ROUTED, IMAGES, TEXTS = "routed attention", "image learner", "text learner"
BACKWARD = " + backward"
COMPILED, RECORDED = "decoding, compiled", "decoding, recorded"
# What is chosen between, and the two ways.
CHOSEN, OTHER = "the way chosen", "the other way"
FIRST_FACTORS = "x A of both learners in one product, not two"
LAST_FACTORS = "B_o of both learners in one product, not two"
SMALL_GATES = "gates on r numbers, not on D"
ROPE = "rope in place by halves, not joined anew"
SPANS = "spans without a mask, not one masked call"
MADE_AGAIN = "keys and values made again in backward, not kept"
MADE_AGAIN_MEMORY = f"{MADE_AGAIN}: memory of eight forwards"
FURTHER_VALUES = "columns as further values, not a second attention"
CHOICES = (
    FIRST_FACTORS, LAST_FACTORS, SMALL_GATES, ROPE, SPANS, FURTHER_VALUES, MADE_AGAIN,
    MADE_AGAIN_MEMORY,
)  # fmt: skip
MODEL, MODELS = "whole model", (FORWARD, STEP, MEMORY, DECODING, COMPILED, RECORDED)


@dataclass
class Row:
    """`variant` in units of `baseline`, both measured in the same rounds.

    `low`, `high`: quartiles of the ratios of so many `rounds`. `value`, `base`: medians of the two,
    in `unit`. `floor`: the ratio that arithmetic allows at best: of operations, the time that the
    machine's own ceilings leave over the baseline's; of training steps, the operations over the
    baseline's.
    """

    what: str
    variant: str
    baseline: str
    shape: str
    dtype: str
    batch: int
    length: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    value: float | None = None
    base: float | None = None
    unit: str = "s"
    floor: float | None = None
    skipped: str | None = None

    @property
    def place(self) -> tuple[str, str, int, int]:
        """Rows of one place stand in one line of a table."""
        return self.shape, self.what, self.batch, self.length

    @property
    def spread(self) -> tuple[float, float, float] | None:
        """The ratio between its quartiles: low, ratio, high; None for what was skipped."""
        if self.low is None or self.ratio is None or self.high is None:
            return None
        return self.low, self.ratio, self.high

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def in_order(rows: list[Row]) -> list[str]:
    """What is measured in these rows, as a reader wants it: whole models, operations, choices."""
    ways = (
        *MODELS,
        *(f"{what}{way}" for way in ("", BACKWARD) for what in (ROUTED, IMAGES, TEXTS)),
        *(f"{what}{way}" for what in CHOICES for way in ("", BACKWARD)),
    )
    found = {row.what for row in rows}
    return [what for what in ways if what in found]
