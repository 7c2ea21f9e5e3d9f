"""What became of a language model that learned to see: three scores, and what they cost."""

from dataclasses import dataclass

from wings.eval.scoring.accuracy import Accuracy


@dataclass(frozen=True)
class MethodResult:
    """One row of a report.

    Attributes:
        name: how it was trained.
        llm_rate: learning rate of the language model; None where it stayed frozen.
        text: held-out text questions, asked alone.
        mixed: held-out text questions, asked after a picture in the same conversation.
        pictures: held-out questions about pictures.
        trained: number of parameters that were trained.
        seconds: training time.
    """

    name: str
    llm_rate: float | None
    text: Accuracy
    mixed: Accuracy
    pictures: Accuracy
    trained: int
    seconds: float

    @property
    def title(self) -> str:
        """`full fine-tune at 1e-4`: the name, and the rate where the language model was trained."""
        if self.llm_rate is None:
            return self.name
        return f"{self.name} at {self.llm_rate:.0e}".replace("e-0", "e-")
