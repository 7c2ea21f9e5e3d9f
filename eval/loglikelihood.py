"""How likely a model finds each of several answers, and what that ranking is worth.

For captions: which of several a picture's own caption is; and for choices that are not spoken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.processing.tokenization import pad_rows

from .generate import encode
from .items import Item


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of one answer: `total` in nats over its `tokens` tokens.

    Attributes:
        greedy: whether greedy decoding would say it.
    """

    total: float
    tokens: int
    greedy: bool = False

    @property
    def mean(self) -> float:
        """Nats a token, so that a long answer is not a bad one."""
        return self.total / self.tokens


@torch.inference_mode()
def choice_likelihoods(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[Likelihood]]:
    """The log-likelihood of every choice of every item, as the assistant's next words.

    The end of the turn is not part of it. The prompt is the same tokens before every choice.

    Args:
        model: a Wings model, or any causal LM for items without pictures.
        processor: the model's processor, or the tokenizer of a plain LM.
        batch_size: answers per batch.
        on_batch: called with the number of answers just measured.

    Raises:
        WingsError: an item without choices, or a choice without tokens.
    """
    model.eval()
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    for item in items:
        if not item.choices:
            raise WingsError(
                f"an item of kind {item.kind!r} has nothing to choose from; give it its 'choices'"
            )
    pairs = [(n, choice) for n, item in enumerate(items) for choice in item.choices]
    found: list[list[Likelihood]] = [[] for _ in items]
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        prompts = {n: _row(processor, items[n]) for n in {n for n, _ in chunk}}
        rows, lengths = [], []
        for n, choice in chunk:
            ids = tokenizer.encode(choice, add_special_tokens=False)
            if not ids:
                raise WingsError(f"the choice {choice!r} has no tokens; give it a text")
            prompt = prompts[n]["input_ids"]
            lengths.append((len(prompt), len(ids)))
            rows.append({**prompts[n], "input_ids": torch.cat([prompt, torch.tensor(ids)])})
        batch = pad_rows(rows, tokenizer.pad_token_id or 0, "right")
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = model(**batch).logits
        for (n, _), ids, row, (before, many) in zip(
            chunk, batch["input_ids"], logits, lengths, strict=True
        ):
            span = row[before - 1 : before + many - 1].float().log_softmax(-1)
            said = ids[before : before + many]
            total = span.gather(1, said[:, None]).sum().item()
            found[n].append(Likelihood(total, many, torch.equal(span.argmax(-1), said)))
        if on_batch:
            on_batch(len(chunk))
    return found


def likeliest(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    batch_size: int = 32,
) -> list[str]:
    """The likeliest choice of every item by nats a token; "" where two are, so that neither counts.

    Raises:
        WingsError: as `choice_likelihoods`.
    """
    said = []
    found = choice_likelihoods(model, processor, items, batch_size=batch_size)
    for item, of in zip(items, found, strict=True):
        best = max(one.mean for one in of)
        named = [c for c, one in zip(item.choices, of, strict=True) if one.mean == best]
        said.append(named[0] if len(named) == 1 else "")
    return said


def rank(item: Item, likelihoods: Sequence[Likelihood]) -> int:
    """The place of the right choice, 1 for the best, by nats a token; ties count against it."""
    if item.answer not in item.choices:
        raise WingsError(f"the answer {item.answer!r} is none of the choices; add it to them")
    own = likelihoods[item.choices.index(item.answer)].mean
    return sum(one.mean >= own for one in likelihoods)


def ranked(items: Sequence[Item], found: Sequence[Sequence[Likelihood]]) -> list[float]:
    """1 for every item whose right choice is the likeliest, else 0."""
    return [float(rank(item, of) == 1) for item, of in zip(items, found, strict=True)]


def reciprocal_ranks(items: Sequence[Item], found: Sequence[Sequence[Likelihood]]) -> list[float]:
    """One over the place of the right choice, for every item."""
    return [1 / rank(item, of) for item, of in zip(items, found, strict=True)]


def _row(
    processor: ProcessorMixin | PreTrainedTokenizerBase, item: Item
) -> dict[str, torch.Tensor]:
    """A prompt alone: `input_ids` [T], `pixel_values` [n, 3, H, W] where there are pictures."""
    batch = encode(processor, [list(item.messages)])
    row = {"input_ids": batch["input_ids"][0]}
    return row | ({"pixel_values": batch["pixel_values"]} if "pixel_values" in batch else {})
