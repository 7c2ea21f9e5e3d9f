"""Text turns: chooses an exchange of a text file to append to a conversation with items."""

import numpy as np

from wings.errors import WingsError
from wings.records.formats import Message, items_of, to_messages
from wings.records.open_records import open_records
from wings.records.records import naming
from wings.sense import Words
from wings.train.recipe_parts import DataSource, TextTurns


class TextExchanges:
    """The first question and answer of every record of a text file.

    The choice depends only on the seed and the number of the record that gets the exchange: not on
    epoch, rank, worker or earlier reads. Each record with items gets one with probability `share`,
    drawn with replacement from the file without what is set aside.

    Args:
        settings: the recipe's `text_turns`.
        seed: seed of the draws.
        set_aside: records that are never drawn, for the evaluation; at most a fifth of the file.

    Raises:
        WingsError: the file cannot be opened, or a record cannot be read or has an item. All
            records are read here, tens of microseconds each, so that no run stops in the middle.
    """

    def __init__(self, settings: TextTurns, seed: int, set_aside: int = 0) -> None:
        self.share, self.seed = settings.share, seed
        try:
            self.records = open_records(DataSource(settings.path))
            for number in range(len(self.records)):
                self.read(number)
        except WingsError as error:
            raise WingsError(f"text_turns: {error}") from None
        every = len(self.records)
        count = min(set_aside, every // 5)
        # From all over the file, as its kinds of text may be in order.
        self.set_aside = {every * n // count for n in range(count)}
        self.drawn = [number for number in range(every) if number not in self.set_aside]

    def evaluated_texts(self, count: int) -> list[list[Message]]:
        """Up to `count` exchanges that no conversation gets; of all, if none is set aside."""
        return [self.read(number) for number in sorted(self.set_aside or self.drawn)[:count]]

    def read(self, number: int) -> list[Message]:
        """The first exchange of record `number` of the file: question and answer."""
        with naming(lambda: self.records.place(number)):
            return first_exchange(to_messages(self.records[number], self.records.folder))

    def after(self, number: int, messages: list[Message]) -> list[Message]:
        """The exchange to append to a conversation, if any.

        Args:
            number: number of the conversation's record among all sources.
            messages: the conversation.

        Returns:
            two messages, or none: without an item, after an unanswered question, or by the draw.
        """
        if not items_of(messages) or messages[-1]["role"] != "assistant":
            return []
        draw = np.random.default_rng([self.seed, number])
        if draw.random() >= self.share:
            return []
        return self.read(self.drawn[int(draw.integers(len(self.drawn)))])


def first_exchange(messages: list[Message]) -> list[Message]:
    """The first question and answer of a text conversation.

    A system message before it is dropped; the conversation that gets the exchange has its own or
    none.

    Raises:
        WingsError: the conversation has an image or a sound.
    """
    if items := items_of(messages):
        one = Words.of(items[0][0]).one
        raise WingsError(f"it has {one}; remove the record, text turns have none")
    return [message for message in messages if message["role"] != "system"][:2]
