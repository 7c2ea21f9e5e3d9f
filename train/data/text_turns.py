"""Text turns: exchanges of a file of text, and which conversation with pictures gets which."""

import numpy as np

from wings.errors import WingsError
from wings.train.recipe import Source, TextTurns

from .formats import Message, to_messages
from .readers.open_records import open_records


class TextExchanges:
    """The first question and answer of every record of a file of text.

    Who gets one, and which, depends on the seed and the number of the record that gets it: not on
    the epoch, the rank, the worker or what was read before. Each record with pictures gets one with
    the probability `share`, drawn from the whole file, whatever others have drawn.

    Args:
        settings: of the recipe.
        seed: of the draws.

    Raises:
        WingsError: a file that cannot be opened, and the first record of it that cannot be read or
            holds a picture. All are looked at here, some tens of microseconds each, so that a run
            does not stop in the middle.
    """

    def __init__(self, settings: TextTurns, seed: int) -> None:
        self.share, self.seed = settings.share, seed
        try:
            self.records = open_records(Source(settings.path))
            for number in range(len(self.records)):
                self.read(number)
        except WingsError as error:
            raise WingsError(f"text_turns: {error}") from None

    def read(self, number: int) -> list[Message]:
        """The first exchange of record `number` of the file: a user's turn and the answer.

        A system message before it is left out, as the conversation has its own or none.
        """
        try:
            messages = to_messages(self.records[number], self.records.folder)
            if any(part["type"] == "image" for one in messages for part in one["content"]):
                raise WingsError("it has a picture, and a text turn has none; take the record out")
        except WingsError as error:
            raise WingsError(f"{self.records.place(number)}: {error}") from error
        talk = [message for message in messages if message["role"] != "system"]
        return talk[:2]

    def after(self, number: int, messages: list[Message]) -> list[Message]:
        """The exchange that stands behind a conversation, or nothing.

        Args:
            number: of the conversation's record, among all sources.
            messages: the conversation.

        Returns:
            two messages; none where there is no picture, where the draw says so, and behind a
            question that nobody answers.
        """
        seen = any(part["type"] == "image" for one in messages for part in one["content"])
        if not seen or messages[-1]["role"] != "assistant":
            return []
        draw = np.random.default_rng([self.seed, number])
        if draw.random() >= self.share:
            return []
        return self.read(int(draw.integers(len(self.records))))
