"""Prompts of the attention shift: items as token ids, with masks of pictures and sounds."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.records.formats import items_of, sense_of
from wings.sense import IMAGE

from ..generate import encode
from ..items import Item
from ..senses import SENSES

# A private-use character that marks the place of a source while a template is rendered.
MARKER = "\ue000"


def encode_prompts(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    preamble: str,
    placeholder: str,
    senses: Sequence[str] = (IMAGE,),
) -> tuple[BatchFeature, Tensor]:
    """Encodes items as a left-padded batch that ends where the answer begins.

    Args:
        processor: of a Wings model or a vision-language model, or the tokenizer of a plain LM.
        items: with or without pictures and sounds.
        preamble: text before a picture that starts a conversation; "" for none before a sound too.
        placeholder: words in a picture's place for a model without vision.
        senses: names of S senses.

    Returns:
        The batch, and `[B, T, S]` bool: True at the tokens of a sense, or of its placeholder.

    Raises:
        WingsError: a processor without an image token id, a slow tokenizer, or no chat template.
    """
    conversations = [add_preamble(item.messages, preamble) for item in items]
    if not isinstance(processor, ProcessorMixin):
        return encode_placeholders(processor, conversations, placeholder, senses)
    tokens: dict[str, int | None] = {IMAGE: getattr(processor, "image_token_id", None)}
    if isinstance(processor, WingsProcessor):
        tokens |= {name: sense.token_id for name, sense in processor.senses.items()}
    for sense in senses:
        if tokens.get(sense) is None:
            raise WingsError(
                f"{type(processor).__name__} has no {sense} token id, so {sense} tokens cannot be "
                f"found; set processor.{sense}_token_id."
            )
    batch = encode(processor, conversations)
    return batch, torch.stack([batch["input_ids"] == tokens[one] for one in senses], dim=-1)


def add_preamble(messages: Sequence[dict], preamble: str) -> list[dict]:
    """Inserts the preamble, or that of another sense, if the first message starts with an item."""
    messages = list(messages)
    first = messages[0]
    parts = [] if isinstance(first["content"], str) else first["content"]
    if preamble and parts and parts[0]["type"] != "text":
        kind = sense_of(parts[0]["type"])
        words = preamble if kind == IMAGE else SENSES[kind].preamble
        messages[0] = first | {"content": [{"type": "text", "text": words}, *parts]}
    return messages


def encode_placeholders(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict]],
    placeholder: str,
    senses: Sequence[str] = (IMAGE,),
) -> tuple[BatchFeature, Tensor]:
    """Encodes conversations for a plain LM, with words in place of each picture and sound."""
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
        for piece, (kind, _) in zip(pieces[1:], items_of(messages), strict=True):
            words = placeholder if kind == IMAGE else SENSES[kind].placeholder
            spans.append((len(text), len(text) + len(words), senses.index(kind)))
            text += words + piece
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
    is_item = torch.zeros(*first.shape, len(senses), dtype=torch.bool)
    for row, spans in enumerate(places):
        for start, end, sense in spans:
            is_item[row, :, sense] |= (first[row] < end) & (last[row] > start)
    return batch, is_item & batch["attention_mask"].bool()[..., None]


def marked_text(content: Any) -> str:
    """A message's content as one text, with `MARKER` for each picture and sound."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else MARKER for part in content)
