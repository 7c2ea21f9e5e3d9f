"""Rows of a batch: token ids, labels and pixels of one text or one conversation."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError

from .chat_template import ChatTemplate
from .conversation import IMAGE_TOKEN, IMAGES_ONLY, Conversation, Span
from .image_processor import WingsImageProcessor
from .tokenization import IGNORED, tokenize
from .turn_end import TurnEnd, find_turn_end, learn_end
from .typed_letters import TypedLetters


@dataclass(frozen=True)
class RowEncoder:
    """Encodes texts and conversations, one row at a time.

    Attributes:
        tokenizer: of the language model, with `<image>`.
        image_processor: of the tower.
        image_token_id: written `image_seq_length` times for an image.
        image_seq_length: features per image.
        template: renders conversations.
        letters: tokens that are only letters in what someone says.
        labels: rows have `labels`, -100 except for the assistant's turns and their ends.
        mask: rows have `assistant_masks`, 1 on the tokens of the assistant's turns.
        add_special_tokens: the tokenizer's own, around the text.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: WingsImageProcessor
    image_token_id: int
    image_seq_length: int
    template: ChatTemplate
    letters: TypedLetters = IMAGES_ONLY
    labels: bool = False
    mask: bool = False
    add_special_tokens: bool = False

    def of_text(self, text: str, spans: list[Span] | None = None) -> dict[str, Tensor]:
        """Returns `input_ids` [T] and, with spans of letters to learn, `labels` [T], int64."""
        ids, labels = tokenize(
            self.tokenizer, text, spans, self.image_token_id, self.image_seq_length,
            self.add_special_tokens, self.letters,
        )  # fmt: skip
        row = {"input_ids": torch.tensor(ids, dtype=torch.long)}
        return row if spans is None else row | {"labels": torch.tensor(labels, dtype=torch.long)}

    def pixels(self, images: list) -> dict[str, Tensor]:
        """Returns `pixel_values` [n, 3, height, width] float32 where there are images."""
        return dict(self.image_processor(images)) if images else {}

    def of_conversation(
        self, conversation: Conversation, add_generation_prompt: bool, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """Returns the row of a conversation whose images are all given.

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
        if max_length is not None:
            conversation = conversation.shorten(
                lambda shorter: self._length(shorter, add_generation_prompt), max_length
            )
        text = self.template.write(conversation, add_generation_prompt)
        images = conversation.all_images
        if text.count(IMAGE_TOKEN) != len(images):
            raise WingsError(
                f"The chat template writes {text.count(IMAGE_TOKEN)} {IMAGE_TOKEN} for "
                f"{len(images)} images; use a template that writes each message's content once."
            )
        if not (self.labels or self.mask):
            return self.of_text(text) | self.pixels(images)
        row = self.of_text(text, self.template.spans(conversation, text))
        if self.mask:
            row["assistant_masks"] = (row["labels"] != IGNORED).long()
        if self.labels:
            row = learn_end(row, self.turn_end(), max_length)
        else:
            del row["labels"]
        return row | self.pixels(images)

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
        return len(self.of_text(text)["input_ids"])
