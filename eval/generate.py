"""Generates greedy answers to items, in left-padded batches."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeGuard

import torch
from transformers import (
    BatchFeature,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings.processing.chat_template import ChatTemplate
from wings.processing.processor import WingsProcessor
from wings.processing.vision_language import encode_conversations

from .items import Item
from .senses import names_in


@torch.inference_mode()
def answer_items(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    batch_size: int = 64,
    max_new_tokens: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """The model's greedy answer to every item, in the order of the items.

    Args:
        model: a Wings model, a composite model of transformers, or any causal LM for items without
            pictures and sounds.
        processor: the model's processor, or the tokenizer of a plain LM.
        batch_size: conversations per batch, grouped by length.
        max_new_tokens: longest answer, in tokens.
        on_batch: called after each batch with its number of items.
    """
    # True for every causal LM, but not declared by PreTrainedModel.
    assert isinstance(model, GenerationMixin)
    model.eval()
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    answers = [""] * len(items)
    for chosen in batch_by_length(items, batch_size):
        batch = encode_for(model, processor, [list(items[n].messages) for n in chosen])
        output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, batch["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        for n, text in zip(chosen, texts, strict=True):
            answers[n] = text
        if on_batch:
            on_batch(len(chosen))
    return answers


def batch_by_length(items: Sequence[Item], batch_size: int) -> list[list[int]]:
    """Indices of items in batches of conversations of similar length.

    Some processors refuse a batch in which only some conversations have pictures. A row's senses
    are also those of its batch then, so that its result is that of the row alone.
    """

    def senses(n: int) -> tuple[str, ...]:
        return names_in(items[n].messages)

    order = sorted(range(len(items)), key=lambda n: (senses(n), _length(items[n]), n))
    groups = [list(group) for _, group in groupby(order, senses)]
    return [
        group[start : start + batch_size]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]


def is_composite(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
) -> TypeGuard[ProcessorMixin]:
    """True for the processor of a composite model of transformers."""
    return isinstance(processor, ProcessorMixin) and not isinstance(processor, WingsProcessor)


def encode_for(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    conversations: list[list[dict]],
) -> BatchFeature:
    """`encode` on the model's device; pixels in its dtype for a composite model."""
    batch = encode(processor, conversations).to(model.device)
    return batch.to(model.dtype) if is_composite(processor) else batch


def encode(
    processor: ProcessorMixin | PreTrainedTokenizerBase, conversations: list[list[dict]]
) -> BatchFeature:
    """Encodes conversations as a left-padded batch that ends with the assistant's header.

    Returns:
        `input_ids` and `attention_mask` [B, T] int64; with pictures also `pixel_values`
        [N, 3, H, W] for a Wings model, with sounds `audio_values`, and whatever the processor of a
        composite model makes.

    Raises:
        WingsError: a conversation that cannot be encoded.
    """
    if is_composite(processor):
        return encode_conversations(processor, conversations)
    if isinstance(processor, ProcessorMixin):
        # Annotated as a string, which is true only without tokenize.
        return processor.apply_chat_template(  # type: ignore[return-value]
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    template = ChatTemplate(processor, {})
    texts = [template.render(messages, add_generation_prompt=True) for messages in conversations]
    return processor(
        texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )


def _length(item: Item) -> int:
    """Approximate length in characters; a picture or sound counts as 400."""
    length = 0
    for message in item.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        length += sum(len(part["text"]) if part["type"] == "text" else 400 for part in parts)
    return length
