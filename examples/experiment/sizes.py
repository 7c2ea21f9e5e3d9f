"""How large the experiment is."""

from dataclasses import dataclass, field

SENTENCES = 32  # tokens of an answer to a text question


@dataclass(frozen=True)
class Amounts:
    """Records of each file.

    Attributes:
        align, instruct: conversations about pictures, for the two stages.
        text: text conversations with the LLM's own answers.
        drift: as many of them are held out.
        validation, test: questions about pictures.
        of_text: questions of each kind of text, for the validation and for the test: more of those
            that a small LLM can answer, as only they can be forgotten.
    """

    align: int = 2400
    instruct: int = 1600
    text: int = 260
    drift: int = 40
    validation: int = 100
    test: int = 250
    of_text: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "capitals": (30, 80),
            "facts": (20, 44),
            "instructions": (16, 44),
            "arithmetic": (7, 16),
            "elements": (7, 16),
        }
    )

    def of(self, part: str) -> int:
        """Questions about pictures in a part."""
        return {"validation": self.validation, "test": self.test}[part]


@dataclass(frozen=True)
class Size:
    """Amounts of data, and steps of both stages at `batch_size` conversations.

    Attributes:
        amounts: of data.
        align_steps, steps: of stage 1 and of stage 2.
        batch_size: conversations of a step.
        sentences: tokens after which an answer to a text question is cut.
    """

    amounts: Amounts = field(default_factory=Amounts)
    align_steps: int = 200
    steps: int = 75
    batch_size: int = 16
    sentences: int = SENTENCES
