"""Prompts of the attention shift: items as token ids, with a mask of the image tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError

from ..generate import encode
from ..items import Item

# A private-use character that marks the place of a picture while a template is rendered.
MARKER = "\ue000"


def encode_prompts(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    preamble: str,
    placeholder: str,
) -> tuple[BatchFeature, Tensor]:
    """Encodes items as a left-padded batch that ends where the answer begins.

    Args:
        processor: of a Wings model or a vision-language model, or the tokenizer of a plain LM.
        items: with or without pictures.
        preamble: text before a picture that starts a conversation; "" for none.
        placeholder: words in a picture's place for a model without vision.

    Returns:
        The batch, and `[B, T]` bool: True at image tokens or placeholder tokens.

    Raises:
        WingsError: a processor without an image token id, a slow tokenizer, or no chat template.
    """
    conversations = [add_preamble(item.messages, preamble) for item in items]
    if not isinstance(processor, ProcessorMixin):
        return encode_placeholders(processor, conversations, placeholder)
    image_token = getattr(processor, "image_token_id", None)
    if image_token is None:
        raise WingsError(
            f"{type(processor).__name__} has no image token id, so image tokens cannot be found; "
            "set processor.image_token_id."
        )
    batch = encode(processor, conversations)
    return batch, batch["input_ids"] == image_token


def add_preamble(messages: Sequence[dict], preamble: str) -> list[dict]:
    """Inserts the preamble if the first message starts with a picture."""
    messages = list(messages)
    first = messages[0]
    parts = [] if isinstance(first["content"], str) else first["content"]
    if preamble and parts and parts[0]["type"] == "image":
        messages[0] = first | {"content": [{"type": "text", "text": preamble}, *parts]}
    return messages


def encode_placeholders(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[dict]], placeholder: str
) -> tuple[BatchFeature, Tensor]:
    """Encodes conversations for a model without vision, with words in place of each picture."""
    if not tokenizer.chat_template:
        raise WingsError(
            "The tokenizer has no chat template; set tokenizer.chat_template to the one that the "
            "language model was trained with."
        )
    if not tokenizer.is_fast:
        raise WingsError(
            f"{type(tokenizer).__name__} does not report character offsets, so the words in a "
            "picture's place cannot be found; use a fast tokenizer."
        )
    texts, places = [], []
    for messages in conversations:
        marked = [message | {"content": marked_text(message["content"])} for message in messages]
        whole = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        # With tokenize=False it is a string.
        assert isinstance(whole, str)
        pieces = whole.split(MARKER)
        text, spans = pieces[0], []
        for piece in pieces[1:]:
            spans.append((len(text), len(text) + len(placeholder)))
            text += placeholder + piece
        texts.append(text)
        places.append(spans)
    if tokenizer.pad_token is None:
        # Padding is masked; it only needs some id.
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(
        texts,
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    first, last = batch.pop("offset_mapping").unbind(-1)
    is_image = torch.zeros_like(first, dtype=torch.bool)
    for row, spans in enumerate(places):
        for start, end in spans:
            is_image[row] |= (first[row] < end) & (last[row] > start)
    return batch, is_image & batch["attention_mask"].bool()


def marked_text(content: Any) -> str:
    """A message's content as one text, with `MARKER` for each picture."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else MARKER for part in content)
