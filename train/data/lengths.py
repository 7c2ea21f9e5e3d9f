"""Lengths of records, estimated from what they say: nothing is decoded or tokenised for it."""

from typing import NamedTuple

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor

from .dataset import Conversations
from .formats import Message

# Records whose text is tokenised to learn how long a token is.
TRIALS = 64


class Length(NamedTuple):
    """Images of a record, and about how many tokens it is, image tokens included."""

    images: int
    tokens: float


class Lengths:
    """The length of each record of `data`, from its letters and images.

    What batches are made of must be known in the process that orders the samples, for records far
    ahead. Counting letters costs some microseconds a record, and a token has about as many letters
    in one record as in the next: `TRIALS` records say how many.

    Args:
        data: the records.
        processor: its tokenizer, and how many tokens an image is.
        max_length: tokens of the longest sample.
    """

    def __init__(self, data: Conversations, processor: WingsProcessor, max_length: int) -> None:
        self.data, self.max_length = data, max_length
        self.image_tokens = processor.image_seq_length
        self.tokens_per_letter = self._measure(processor)

    def __call__(self, number: int) -> Length:
        """Of record `number`; a broken one is as short as can be, whatever stands in its place."""
        try:
            own, added = self.data.messages(number)
        except WingsError:
            return Length(0, 0.0)
        texts, images = read(own)
        tokens = images * self.image_tokens + letters(texts) * self.tokens_per_letter
        more = letters(read(added)[0]) * self.tokens_per_letter
        if tokens + more <= self.max_length:
            tokens += more
        return Length(images, min(tokens, float(self.max_length)))

    def _measure(self, processor: WingsProcessor) -> float:
        tokens = count = 0
        for number in range(0, len(self.data), max(1, len(self.data) // TRIALS)):
            try:
                own, added = self.data.messages(number)
            except WingsError:
                continue
            texts, _ = read([*own, *added])
            count += letters(texts)
            tokens += sum(len(processor.tokenizer(text)["input_ids"]) for text in texts)
        return tokens / count if count else 1.0


def read(messages: list[Message]) -> tuple[list[str], int]:
    """The texts of a conversation, and how many images it has."""
    parts = [part for message in messages for part in message["content"]]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return texts, len(parts) - len(texts)


def letters(texts: list[str]) -> int:
    """Bytes, not characters: a Chinese character is about as many tokens as a short word."""
    return sum(len(text.encode()) for text in texts)
