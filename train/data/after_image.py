"""Text after an image: held-out text questions appended to conversations with images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.records.formats import Message, images_of

from .collator import with_kl_mask
from .dataset import ConversationDataset
from .text_turns import first_exchange

# Records of a source that are read in search of one kind.
SEARCHED = 2000


@dataclass(frozen=True)
class Conversations:
    """Conversations of both kinds, for evaluation.

    Attributes:
        images: conversations with images that end with an answer.
        texts: exchanges without images: question and answer.
    """

    images: Sequence[list[Message]]
    texts: Sequence[list[Message]]

    @property
    def count(self) -> int:
        """Number of different pairs of an image conversation and a text; 0 without one kind."""
        return max(len(self.images), len(self.texts)) if self.images and self.texts else 0

    def pair(self, number: int) -> tuple[list[Message], list[Message]]:
        """An image conversation and the text exchange after it."""
        return self.images[number % len(self.images)], self.texts[number % len(self.texts)]


def choose_conversations(
    held_out: ConversationDataset | None, training: ConversationDataset, count: int, seed: int
) -> Conversations:
    """The conversations that are put together for the evaluation.

    Texts are those that `text_turns` sets aside (all of it, if it has fewer than five), or else of
    the held-out records, or else of the training records. Images are those of the held-out records,
    or else of the training records.

    Args:
        held_out: records of `evaluate.data`, if any.
        training: records of the run.
        count: largest number of each kind.
        seed: seed of the choice.
    """
    sources = [source for source in (held_out, training) if source is not None]
    texts = training.exchanges.evaluated_texts(count) if training.exchanges else []
    images: list[list[Message]] = []
    for source in sources:
        texts = texts or _find(source, _text_exchange, count, seed)
        images = images or _find(source, _image_conversation, count, seed)
    return Conversations(images[:count], texts[:count])


def any_image(data: ConversationDataset) -> bool:
    """True if a record has an image, of up to `SEARCHED` of every source."""
    return bool(_find(data, images_of, 1, seed=0))


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
    if images_of(messages):
        return None
    turns = first_exchange(messages)
    return turns if [turn["role"] for turn in turns] == ["user", "assistant"] else None


def _image_conversation(messages: list[Message]) -> list[Message] | None:
    """A conversation with images, up to the first answer after its last image."""
    last = max((n for n, one in enumerate(messages) if images_of([one])), default=None)
    if last is None:
        return None
    answer = next((n for n in range(last, len(messages)) if _is_answer(messages[n])), None)
    return None if answer is None else messages[: answer + 1]


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant"


def in_words(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its images."""
    return [
        {**one, "content": [part for part in one["content"] if part["type"] == "text"]}
        for one in messages
    ]


class TextAfterImage(Dataset):
    """Text exchanges after conversations with images, of which only the last answer has labels.

    Item `n` has `input_ids`, `labels` [T] and `pixel_values` [k, 3, H, W]. With `needs_kl` it has
    `kl_mask` [T] on the answer and `base_inputs`, the same exchange with the images left out, which
    the language model reads.

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

    def encode(self, images: list[Message], text: list[Message]) -> dict[str, Any]:
        """One pair as tensors.

        Raises:
            WingsError: an image that cannot be read, or a template that writes the answer otherwise
                after the exchange than alone.
        """
        answer = int((self.processor.encode(text)["labels"][1:] != -100).sum())
        sample = _last_labels(self.processor.encode([*images, *text]), answer)
        if not self.needs_kl:
            return sample
        words = _last_labels(self.processor.encode([*in_words(images), *text]), answer)
        return with_kl_mask(sample, words)

    def _is_usable(self, images: list[Message], text: list[Message]) -> bool:
        try:
            sample = self.encode(images, text)
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
