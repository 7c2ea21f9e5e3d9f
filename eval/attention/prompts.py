"""Prompts of the attention shift: items as token ids, and which tokens stand for a picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.eval.generate import encode
from wings.processing.processor import WingsProcessor

from ..items import Item

# Letters that no text has: they hold the place of the stand-in while a template is rendered.
HOLD = "\ue000"


def prompts(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    preamble: str,
    stand_in: str,
) -> tuple[BatchFeature, Tensor]:
    """Items as a left-padded batch that ends where the answer begins.

    Args:
        processor: of a Wings model or a vision-language model; or the tokenizer of a plain LM.
        items: with or without pictures.
        preamble: what is said before a picture that nothing stands before; "" for nothing.
        stand_in: the words in a picture's place for a model that cannot see.

    Returns:
        The batch, and `[B, T]` bool: the tokens that stand for pictures.

    Raises:
        WingsError: a processor that does not tell its image token, a tokenizer that does not tell
            letters, or no chat template.
    """
    conversations = [introduced(item.messages, preamble) for item in items]
    if not isinstance(processor, ProcessorMixin):
        return with_stand_ins(processor, conversations, stand_in)
    if isinstance(processor, WingsProcessor):
        batch = encode(processor, conversations)
        return batch, batch["input_ids"] == processor.image_token_id
    image_token = getattr(processor, "image_token_id", None)
    if image_token is None:
        raise WingsError(
            f"{type(processor).__name__} does not tell its image token, so the tokens of a picture "
            f"cannot be found: set processor.image_token_id."
        )
    # Declared as a text, which it is only without tokenize.
    batch = processor.apply_chat_template(  # type: ignore[assignment]
        [[in_parts(message) for message in messages] for messages in conversations],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    return batch, batch["input_ids"] == image_token


def introduced(messages: Sequence[dict], preamble: str) -> list[dict]:
    """The messages, with the preamble before a picture that nothing stands before."""
    messages = list(messages)
    first = messages[0]
    parts = [] if isinstance(first["content"], str) else first["content"]
    if preamble and parts and parts[0]["type"] == "image":
        words = {"type": "text", "text": preamble}
        messages[0] = first | {"content": [words, *parts]}
    return messages


def in_parts(message: dict) -> dict:
    """The message with its content as a list, as templates of vision-language models want it."""
    if not isinstance(message["content"], str):
        return message
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def with_stand_ins(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[dict]], stand_in: str
) -> tuple[BatchFeature, Tensor]:
    """A batch for a model that cannot see: words stand in the place of each picture."""
    if not tokenizer.chat_template:
        raise WingsError(
            "the tokenizer has no chat template; set tokenizer.chat_template to the one that the "
            "language model was trained with"
        )
    if not tokenizer.is_fast:
        raise WingsError(
            f"{type(tokenizer).__name__} does not tell which letters a token stands for, so the "
            f"words in a picture's place cannot be found: use a fast tokenizer."
        )
    texts, places = [], []
    for messages in conversations:
        held = [message | {"content": held_text(message["content"])} for message in messages]
        whole = tokenizer.apply_chat_template(held, tokenize=False, add_generation_prompt=True)
        # It is token ids only where they are asked for.
        assert isinstance(whole, str)
        pieces = whole.split(HOLD)
        text, spans = pieces[0], []
        for piece in pieces[1:]:
            spans.append((len(text), len(text) + len(stand_in)))
            text += stand_in + piece
        texts.append(text)
        places.append(spans)
    if tokenizer.pad_token is None:
        # Padding is masked, so it needs an id and no meaning.
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
    stands = torch.zeros_like(first, dtype=torch.bool)
    for row, spans in enumerate(places):
        for start, end in spans:
            stands[row] |= (first[row] < end) & (last[row] > start)
    return batch, stands & batch["attention_mask"].bool()


def held_text(content: Any) -> str:
    """A message's content as one text, with a letter of its own for each picture."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else HOLD for part in content)
