"""Estimates lengths of records from their letters: nothing is decoded or tokenised."""

from functools import partial
from typing import NamedTuple

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.records.formats import Message, items_of
from wings.records.records import naming

from .dataset import ConversationDataset

# Records that are tokenised to measure tokens per letter.
TRIALS = 64


class EstimatedLength(NamedTuple):
    """The senses of a record's items, in order, and its approximate tokens, theirs included."""

    senses: tuple[str, ...]
    tokens: float


class LengthEstimator:
    """Estimates the length of each record of `data` from its letters, images, sounds and videos.

    Batching needs lengths in the sampling process, for records far ahead. Counting letters takes
    microseconds per record, and tokens per letter vary little; `TRIALS` records measure them.

    Args:
        data: the records.
        processor: gives the tokenizer and the tokens per image.
        max_length: tokens of the longest sample.
    """

    def __init__(
        self, data: ConversationDataset, processor: WingsProcessor, max_length: int
    ) -> None:
        self.data, self.max_length = data, max_length
        self.processor = processor
        self.tokens_per_letter = self._measure(processor)

    def __call__(self, number: int) -> EstimatedLength:
        """Length of record `number`; 0 for a broken one, whatever replaces it."""
        try:
            messages, text_turn = self.data.messages(number)
        except WingsError:
            return EstimatedLength((), 0.0)
        texts, items = read(messages)
        tokens = letters(texts) * self.tokens_per_letter
        tokens += sum(map(self.processor.estimate, items))
        more = letters(read(text_turn)[0]) * self.tokens_per_letter
        if tokens + more <= self.max_length:
            tokens += more
        senses = tuple(sorted({sense for sense, _ in items_of(messages)}))
        return EstimatedLength(senses, min(tokens, float(self.max_length)))

    def _measure(self, processor: WingsProcessor) -> float:
        tokens = count = 0
        for number in range(0, len(self.data), max(1, len(self.data) // TRIALS)):
            try:
                messages, text_turn = self.data.messages(number)
                texts, _ = read([*messages, *text_turn])
                with naming(partial(self.data.name, number)):
                    new = sum(len(processor.tokenizer(text)["input_ids"]) for text in texts)
            except WingsError:
                continue
            count += letters(texts)
            tokens += new
        return tokens / count if count else 1.0


def read(messages: list[Message]) -> tuple[list[str], list[Message]]:
    """The texts of a conversation, and its parts that are images, sounds or videos."""
    parts = [part for message in messages for part in message["content"]]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return texts, [part for part in parts if part["type"] != "text"]


def letters(texts: list[str]) -> int:
    """Bytes, not characters: a Chinese character is about as many tokens as a short word."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
