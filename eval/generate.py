"""What a model says: greedy answers to items, in left-padded batches."""

from collections.abc import Callable, Sequence

import torch
from transformers import (
    BatchFeature,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings.processing.chat_template import ChatTemplate

from .items import Item


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
        model: a Wings model, or any causal LM for items without pictures.
        processor: the model's processor, or the tokenizer of a plain LM.
        batch_size: conversations per batch; conversations of like length go together.
        max_new_tokens: where an answer is cut.
        on_batch: called with the number of items just answered.
    """
    # transformers gives it to every causal LM, but not to the class that all models share.
    assert isinstance(model, GenerationMixin)
    model.eval()
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    answers = [""] * len(items)
    for chosen in batches_of(items, batch_size):
        batch = encode(processor, [list(items[n].messages) for n in chosen]).to(model.device)
        said = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        said = said[:, batch["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        for n, text in zip(chosen, texts, strict=True):
            answers[n] = text
        if on_batch:
            on_batch(len(chosen))
    return answers


def batches_of(items: Sequence[Item], batch_size: int) -> list[list[int]]:
    """Numbers of items, batch by batch: conversations of like length go together."""
    order = sorted(range(len(items)), key=lambda n: (_length(items[n]), n))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def encode(
    processor: ProcessorMixin | PreTrainedTokenizerBase, conversations: list[list[dict]]
) -> BatchFeature:
    """Conversations as one left-padded batch that ends where the assistant's turn begins.

    Returns:
        `input_ids` and `attention_mask` [B, T] int64, and `pixel_values` [N, 3, H, W] where there
        are pictures.
    """
    if isinstance(processor, ProcessorMixin):
        # Declared as a text, which it is only without tokenize.
        return processor.apply_chat_template(  # type: ignore[return-value]
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            padding_side="left",
        )
    template = ChatTemplate(processor, {})
    texts = [template.render(messages, add_generation_prompt=True) for messages in conversations]
    return processor(
        texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )


def _length(item: Item) -> int:
    """About how long a conversation is; a picture counts for as much as a few sentences."""
    length = 0
    for message in item.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        length += sum(len(part["text"]) if part["type"] == "text" else 400 for part in parts)
    return length
