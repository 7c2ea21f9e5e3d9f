"""Rows of a batch: token ids, labels and items of one text or one conversation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.sense import IMAGE

from .chat_template import ChatTemplate
from .conversation import IMAGES_ONLY, Conversation, Span
from .item_encoder import ItemEncoder
from .tokenization import IGNORED, Places, tokenize
from .turn_end import TurnEnd, find_turn_end, learn_end
from .typed_letters import TypedLetters


@dataclass(frozen=True)
class RowEncoder:
    """Encodes texts and conversations, one row at a time.

    Attributes:
        tokenizer: of the language model, with the placeholders.
        senses: by name.
        template: renders conversations.
        letters: tokens that are only letters in what someone says.
        labels: rows have `labels`, -100 except for the assistant's turns and their ends.
        mask: rows have `assistant_masks`, 1 on the tokens of the assistant's turns.
        add_special_tokens: the tokenizer's own, around the text.
    """

    tokenizer: PreTrainedTokenizerBase
    senses: Mapping[str, ItemEncoder]
    template: ChatTemplate
    letters: TypedLetters = IMAGES_ONLY
    labels: bool = False
    mask: bool = False
    add_special_tokens: bool = False

    def of_text(
        self,
        text: str,
        spans: list[Span] | None = None,
        loaded: Mapping[str, list] | None = None,
    ) -> dict[str, Tensor]:
        """Returns `input_ids` [T] and, with spans of letters to learn, `labels` [T], int64.

        Args:
            text: rendered, with a placeholder for each item.
            spans: letters to learn.
            loaded: by sense, its sources as `ItemEncoder.load` gives them; a sense that is not
                there has one item for each placeholder.
        """
        places = {}
        for name, sense in self.senses.items():
            given = None if loaded is None else loaded.get(name)
            counts: Iterable[int] = repeat(1) if given is None else map(sense.count, given)
            places[sense.token] = Places(sense.token_id, map(sense.seq_length.__mul__, counts))
        ids, labels = tokenize(
            self.tokenizer, text, spans, places, self.add_special_tokens, self.letters
        )
        row = {"input_ids": torch.tensor(ids, dtype=torch.long)}
        return row if spans is None else row | {"labels": torch.tensor(labels, dtype=torch.long)}

    def load(self, sense: str, source: Any) -> Any:
        """A source as the items of its sense are counted and made of it.

        Raises:
            WingsError: a sense that the model does not have.
        """
        if sense not in self.senses:
            raise WingsError(
                f"The conversation has {sense}, and this model has no encoder for it; it has "
                f"{', '.join(self.senses)}."
            )
        return self.senses[sense].load(source)

    def items(self, loaded: Mapping[str, list]) -> dict[str, Tensor]:
        """The items of each sense, such as `pixel_values` [n, 3, height, width] float32."""
        found: dict[str, Tensor] = {}
        for name, sources in loaded.items():
            found |= self.senses[name].values(sources)
        return found

    def of_conversation(
        self, conversation: Conversation, add_generation_prompt: bool, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """Returns the row of a conversation whose items are all given.

        Args:
            conversation: parsed.
            add_generation_prompt: end with the assistant's header.
            max_length: tokens; while there are more, the oldest exchange goes (with a warning).

        Raises:
            WingsError: nothing to answer or to learn, a template that cannot render the messages,
                a newest exchange longer than `max_length`.
        """
        roles = [message["role"] for message in conversation.messages]
        if add_generation_prompt and roles[-1] == "assistant":
            raise WingsError(
                "The last message is the assistant's, so there is nothing to answer; end with a "
                "user's message or pass add_generation_prompt=False."
            )
        if self.labels and not add_generation_prompt and "assistant" not in roles:
            raise WingsError("The conversation has no assistant turn to learn from; add one.")
        conversation = conversation.loaded(self.load)
        if max_length is not None:
            conversation = conversation.shorten(
                lambda shorter: self._length(shorter, add_generation_prompt), max_length
            )
        text = self.template.write(conversation, add_generation_prompt)
        loaded = {name: conversation.sources(name) for name in self.senses}
        for name, sources in loaded.items():
            token = self.senses[name].token
            if text.count(token) != len(sources):
                noun = "images" if name == IMAGE else f"parts of {name}"
                raise WingsError(
                    f"The chat template writes {text.count(token)} {token} for {len(sources)} "
                    f"{noun}; use a template that writes each message's content once."
                )
        if not (self.labels or self.mask):
            return self.of_text(text, None, loaded) | self.items(loaded)
        row = self.of_text(text, self.template.spans(conversation, text), loaded)
        if self.mask:
            row["assistant_masks"] = (row["labels"] != IGNORED).long()
        if self.labels:
            row = learn_end(row, self.turn_end(), max_length)
        else:
            del row["labels"]
        return row | self.items(loaded)

    def turn_end(self) -> TurnEnd | None:
        """Returns the token that ends an assistant's turn, found once per template."""
        plain = replace(self, letters=IMAGES_ONLY, add_special_tokens=False)

        def encode(messages: list[dict]) -> dict[str, Tensor]:
            talk = Conversation.parse(messages)
            text = self.template.render(talk.messages, False)
            return plain.of_text(text, self.template.spans(talk, text))

        key = ("turn end", self.template.source, len(self.tokenizer))
        return self.template.kept(key, lambda: find_turn_end(self.tokenizer, encode))

    def _length(self, conversation: Conversation, add_generation_prompt: bool) -> int:
        text = self.template.render(conversation.messages, add_generation_prompt)
        loaded = {name: conversation.sources(name) for name in self.senses}
        return len(self.of_text(text, None, loaded)["input_ids"])
