"""The study's size: records of each file, and the length of all trainings."""

from dataclasses import dataclass, field

from wings.examples.experiment.size import ExperimentSize


@dataclass(frozen=True)
class SensesSize:
    """Records of each file, and the length of all trainings.

    A model that trains two senses at once takes the steps of both.

    Attributes:
        align, instruct: conversations of each sense, for the two stages.
        both: conversations that need both senses, for a few more steps.
        items: questions of each kind in a test.
        blank: questions that need both, which are asked again without one of the two.
        texts: `text`, `drift` and `texts` of the experiment, without a validation part.
        align_steps, steps: of one sense in stage 1 and in stage 2.
        more_steps: of the training on questions that need both.
        batch_size: conversations of a step.
        text_tokens: length limit of a generated answer to a text question.
    """

    align: int = 3200
    instruct: int = 2400
    both: int = 400
    items: int = 80
    blank: int = 120
    texts: ExperimentSize = field(
        default_factory=lambda: ExperimentSize(
            text=160,
            drift=30,
            texts={
                "sums": (0, 60), "reversals": (0, 30), "capitals": (0, 40),
                "instructions": (0, 24), "facts": (0, 40),
            },
        )
    )  # fmt: skip
    align_steps: int = 200
    steps: int = 150
    more_steps: int = 25
    batch_size: int = 16
    text_tokens: int = 40


# For `--trial` and the preflight: every part once, in minutes.
TRIAL = SensesSize(
    align=6, instruct=6, both=4, items=2, blank=2,
    texts=ExperimentSize(
        text=2, drift=2,
        texts={"sums": (0, 2), "reversals": (0, 1), "capitals": (0, 1), "facts": (0, 2)},
    ),
    # The first step only warms up.
    align_steps=2, steps=3, more_steps=2, batch_size=2, text_tokens=4,
)  # fmt: skip
