"""The study's size: records of each file, and the length of all trainings."""

from dataclasses import dataclass, field

from wings.examples.experiment.size import ExperimentSize


@dataclass(frozen=True)
class SensesSize:
    """Length of all trainings, each of which reads its records once, and questions of each test.

    A model that trains two senses at once takes the steps and the records of both.

    Attributes:
        align_steps: of stage 1, by sense; a sound takes more steps to be heard at all.
        steps: of stage 2 of one sense.
        more_steps: of the training on questions that need both.
        batch_size: conversations of a step.
        items: questions of each kind in a test.
        blank: questions that need both, which are asked again without one of the two.
        texts: `text`, `drift` and `texts` of the experiment, without a validation part.
        text_tokens: length limit of a generated answer to a text question.
    """

    align_steps: dict[str, int] = field(default_factory=lambda: {"image": 400, "audio": 600})
    steps: int = 300
    more_steps: int = 25
    batch_size: int = 8
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
    text_tokens: int = 40

    def steps_of(self, sense: str, stage: str) -> int:
        """Steps of a stage of one sense; "both" for those on questions that need both."""
        if sense == "both":
            return self.more_steps
        return self.align_steps[sense] if stage == "align" else self.steps

    def records_of(self, sense: str, stage: str) -> int:
        """Records of a stage of one sense."""
        return self.batch_size * self.steps_of(sense, stage)


# For `--trial` and the preflight: every part once, in minutes. The first step only warms up.
TRIAL = SensesSize(
    align_steps={"image": 2, "audio": 2}, steps=3, more_steps=2, batch_size=2, items=2, blank=2,
    texts=ExperimentSize(
        text=2, drift=2,
        texts={"sums": (0, 2), "reversals": (0, 1), "capitals": (0, 1), "facts": (0, 2)},
    ),
    text_tokens=4,
)  # fmt: skip
