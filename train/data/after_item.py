"""Text after an item of a sense: held-out text questions after conversations with items."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.records.formats import Message, items_of
from wings.sense import IMAGE

from .collator import with_kl_mask
from .dataset import ConversationDataset
from .text_turns import first_exchange

# Records of a source that are read in search of one kind.
SEARCHED = 2000


@dataclass(frozen=True)
class Conversations:
    """Conversations of both kinds, for evaluation.

    Attributes:
        sense: of the items.
        items: conversations with items of the sense that end with an answer.
        texts: exchanges without any item: question and answer.
    """

    sense: str
    items: Sequence[list[Message]]
    texts: Sequence[list[Message]]

    @property
    def count(self) -> int:
        """Number of different pairs of a conversation and a text; 0 without one kind."""
        return max(len(self.items), len(self.texts)) if self.items and self.texts else 0

    def pair(self, number: int) -> tuple[list[Message], list[Message]]:
        """A conversation with items and the text exchange after it."""
        return self.items[number % len(self.items)], self.texts[number % len(self.texts)]


def choose_conversations(
    held_out: ConversationDataset | None,
    training: ConversationDataset,
    count: int,
    seed: int,
    sense: str = IMAGE,
) -> Conversations:
    """The conversations that are put together for the evaluation.

    Texts are those that `text_turns` sets aside (all of it, if it has fewer than five), or else of
    the held-out records, or else of the training records. Items are those of the held-out records,
    or else of the training records.

    Args:
        held_out: records of `evaluate.data`, if any.
        training: records of the run.
        count: largest number of each kind.
        seed: seed of the choice.
        sense: of the items.
    """
    sources = [source for source in (held_out, training) if source is not None]
    texts = training.exchanges.evaluated_texts(count) if training.exchanges else []
    items: list[list[Message]] = []
    for source in sources:
        texts = texts or _find(source, _text_exchange, count, seed)
        items = items or _find(source, partial(_item_conversation, sense), count, seed)
    return Conversations(sense, items[:count], texts[:count])


def any_of_sense(data: ConversationDataset, sense: str) -> bool:
    """True if a record has an item of a sense, of up to `SEARCHED` of every source."""
    return bool(_find(data, lambda talk: [one for one in items_of(talk) if one[0] == sense], 1, 0))


def any_item(data: ConversationDataset) -> bool:
    """True if a record has an image or a sound, of up to `SEARCHED` of every source."""
    return bool(_find(data, items_of, 1, seed=0))


def _find(
    data: ConversationDataset, take: Callable[[list[Message]], Any], count: int, seed: int
) -> list[list[Message]]:
    """Up to `count` conversations of one kind, from all over the sources; streams are left out."""
    found: list[list[Message]] = []
    for number in _places(data, seed):
        try:
            messages = take(data.messages(number)[0])
        except WingsError:
            # The training or the data check names it.
            continue
        if messages:
            found.append(messages)
        if len(found) == count:
            break
    return found


def _places(data: ConversationDataset, seed: int) -> Iterator[int]:
    for source, records in enumerate(data.records):
        length = data.lengths[source]
        if records.shuffle_buffer is None and length:
            draws = np.random.default_rng([seed, source])
            places = draws.permutation(length) if length <= SEARCHED else draws.integers(
                length, size=SEARCHED
            )  # fmt: skip
            for place in dict.fromkeys(places.tolist()):
                yield data.starts[source] + place


def _text_exchange(messages: list[Message]) -> list[Message] | None:
    """The first question and answer of a text conversation."""
    if items_of(messages):
        return None
    turns = first_exchange(messages)
    return turns if [turn["role"] for turn in turns] == ["user", "assistant"] else None


def _item_conversation(sense: str, messages: list[Message]) -> list[Message] | None:
    """A conversation with items of a sense, up to the first answer after its last item."""
    senses = [{kind for kind, _ in items_of([one])} for one in messages]
    if not any(sense in kinds for kinds in senses):
        return None
    last = max((n for n, kinds in enumerate(senses) if kinds), default=None)
    if last is None:
        return None
    answer = next((n for n in range(last, len(messages)) if _is_answer(messages[n])), None)
    return None if answer is None else messages[: answer + 1]


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant"


def in_words(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its items."""
    return [
        {**one, "content": [part for part in one["content"] if part["type"] == "text"]}
        for one in messages
    ]


class TextAfterItem(Dataset):
    """Text exchanges after conversations with items, of which only the last answer has labels.

    Item `n` has `input_ids`, `labels` [T] and `pixel_values` [k, 3, H, W], or the items of another
    sense. With `needs_kl` it has `kl_mask` [T] on the answer and `base_inputs`, the same exchange
    with the items left out, which the language model reads.

    Args:
        conversations: what is put together.
        count: largest number of pairs.
        processor: encodes them.
        max_length: longer pairs are left out.
        needs_kl: also encode what the language model reads.
    """

    def __init__(
        self,
        conversations: Conversations,
        count: int,
        processor: WingsProcessor,
        max_length: int,
        needs_kl: bool,
    ) -> None:
        self.processor, self.max_length, self.needs_kl = processor, max_length, needs_kl
        count = min(count, conversations.count)
        pairs = [conversations.pair(number) for number in range(count)]
        self.pairs = [pair for pair in pairs if self._is_usable(*pair)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.encode(*self.pairs[number])

    def encode(self, items: list[Message], text: list[Message]) -> dict[str, Any]:
        """One pair as tensors.

        Raises:
            WingsError: an item that cannot be read, or a template that writes the answer otherwise
                after the exchange than alone.
        """
        answer = int((self.processor.encode(text)["labels"][1:] != -100).sum())
        sample = _last_labels(self.processor.encode([*items, *text]), answer)
        if not self.needs_kl:
            return sample
        words = _last_labels(self.processor.encode([*in_words(items), *text]), answer)
        return with_kl_mask(sample, words)

    def _is_usable(self, items: list[Message], text: list[Message]) -> bool:
        try:
            sample = self.encode(items, text)
        except WingsError:
            return False
        is_trained = bool((sample["labels"][1:] != -100).any())
        return is_trained and len(sample["input_ids"]) <= self.max_length


def _last_labels(sample: dict[str, Any], count: int) -> dict[str, Any]:
    """The sample with its last `count` labels alone."""
    labels = torch.full_like(sample["labels"], -100)
    places = (sample["labels"] != -100).nonzero().squeeze(1)[-count:]
    labels[places] = sample["labels"][places]
    return {**sample, "labels": labels}
