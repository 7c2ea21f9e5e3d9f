"""The experiment's size: records of each file, and the length of both stages."""

from dataclasses import dataclass, field

PARTS = ("validation", "test")


@dataclass(frozen=True)
class ExperimentSize:
    """Records of each file, and the length of both stages.

    Attributes:
        align, instruct: conversations about pictures, for the two stages.
        text: training texts of each of the five kinds.
        drift: conversations with the LLM's own answers that are held out.
        pictures: questions of each kind about pictures, for validation and test.
        texts: questions of each kind of text, for validation and test.
        turns: questions of each kind that need a picture and a fact, where a study asks them.
        blank: how many picture questions of the test are asked again with grey pictures.
        align_steps, steps: of stage 1 and of stage 2.
        sweep_steps: both, of the runs that choose rates.
        batch_size: conversations of a step.
        text_tokens: length limit of a generated answer to a text question.
    """

    align: int = 2400
    instruct: int = 2400
    text: int = 240
    drift: int = 40
    pictures: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "name": (40, 200),
            "group": (40, 150),
            "count": (40, 150),
            "scene": (40, 150),
            "pair": (40, 150),
            "style": (0, 200),
        }
    )
    texts: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "sums": (60, 200),
            "reversals": (15, 50),
            "capitals": (15, 50),
            "instructions": (15, 50),
            "facts": (15, 50),
        }
    )
    turns: int = 60
    blank: int = 250
    align_steps: int = 200
    steps: int = 150
    sweep_steps: tuple[int, int] = (100, 50)
    batch_size: int = 16
    text_tokens: int = 40
