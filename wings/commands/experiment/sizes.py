"""How large the experiment is."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Amounts:
    """Records of each file.

    Attributes:
        align, instruct: conversations about pictures, for the two stages.
        text: text conversations with the LLM's own answers.
        drift: as many of them are held out.
        validation, test: questions about pictures.
        text_validation, text_test: questions of each of five kinds of text.
    """

    align: int = 2400
    instruct: int = 1600
    text: int = 260
    drift: int = 40
    validation: int = 100
    test: int = 250
    text_validation: int = 20
    text_test: int = 44

    def of(self, part: str) -> int:
        """Questions about pictures in a part."""
        return {"validation": self.validation, "test": self.test}[part]


@dataclass(frozen=True)
class Size:
    """Amounts of data, and steps of both stages at `batch_size` conversations."""

    amounts: Amounts = field(default_factory=Amounts)
    align_steps: int = 200
    steps: int = 75
    batch_size: int = 16
