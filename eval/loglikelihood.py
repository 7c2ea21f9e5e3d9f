"""Log-likelihoods of choices, and scores of their ranking.

For captions (which of several belongs to a picture) and for choices that are not generated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from wings.errors import WingsError
from wings.processing.tokenization import pad_rows
from wings.sense import VALUES

from .continuation import continuation_log_probs
from .generate import encode, encode_for, is_composite
from .items import Item


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of one answer.

    Attributes:
        total: in nats.
        tokens: number of tokens.
        greedy: True if greedy decoding would generate it.
    """

    total: float
    tokens: int
    greedy: bool = False

    @property
    def mean(self) -> float:
        """Nats a token, so that long answers are not penalised."""
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
    """The log-likelihood of every choice of every item as the assistant's next tokens.

    The end of the turn is not included. The prompt has the same tokens before every choice.

    Args:
        model: a Wings model, a composite model of transformers, or any causal LM for items without
            pictures and sounds.
        processor: the model's processor, or the tokenizer of a plain LM.
        batch_size: answers per batch; a composite model reads one at a time.
        on_batch: called after each batch with its number of answers.

    Raises:
        WingsError: an item without choices, or a choice without tokens.
    """
    model.eval()
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    for item in items:
        if not item.choices:
            raise WingsError(
                f"An item of kind {item.kind!r} has nothing to choose from; give it its 'choices'."
            )
    if is_composite(processor):
        return _of_composite(model, processor, items, on_batch)
    pairs = [(n, choice) for n, item in enumerate(items) for choice in item.choices]
    results: list[list[Likelihood]] = [[] for _ in items]
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        prompts = {n: _encode_prompt(processor, items[n]) for n in {n for n, _ in chunk}}
        rows, lengths = [], []
        for n, choice in chunk:
            ids = _encode_choice(tokenizer, choice)
            prompt = prompts[n]["input_ids"]
            lengths.append((len(prompt), len(ids)))
            rows.append({**prompts[n], "input_ids": torch.cat([prompt, torch.tensor(ids)])})
        batch = pad_rows(rows, tokenizer.pad_token_id or 0, "right")
        batch = {name: value.to(model.device) for name, value in batch.items()}
        logits = model(**batch).logits
        for (n, _), ids, row, (before, count) in zip(
            chunk, batch["input_ids"], logits, lengths, strict=True
        ):
            span = row[before - 1 : before + count - 1].float().log_softmax(-1)
            answer = ids[before : before + count]
            total = span.gather(1, answer[:, None]).sum().item()
            greedy = torch.equal(span.argmax(-1), answer)
            results[n].append(Likelihood(total, count, greedy))
        if on_batch:
            on_batch(len(chunk))
    return results


def likeliest_choices(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    batch_size: int = 32,
) -> list[str]:
    """The likeliest choice of every item, by nats a token; "" for a tie, which counts as wrong.

    Raises:
        WingsError: as `choice_likelihoods`.
    """
    chosen = []
    results = choice_likelihoods(model, processor, items, batch_size=batch_size)
    for item, likelihoods in zip(items, results, strict=True):
        best = max(one.mean for one in likelihoods)
        pairs = zip(item.choices, likelihoods, strict=True)
        winners = [choice for choice, one in pairs if one.mean == best]
        chosen.append(winners[0] if len(winners) == 1 else "")
    return chosen


def rank(item: Item, likelihoods: Sequence[Likelihood]) -> int:
    """The rank of the right choice by nats a token, 1 for the best; ties count against it."""
    if item.answer not in item.choices:
        raise WingsError(f"The answer {item.answer!r} is none of the choices; add it to them.")
    right = likelihoods[item.choices.index(item.answer)].mean
    return sum(one.mean >= right for one in likelihoods)


def top1_scores(items: Sequence[Item], results: Sequence[Sequence[Likelihood]]) -> list[float]:
    """1 for every item whose right choice is the likeliest, else 0."""
    return [float(rank(item, one) == 1) for item, one in zip(items, results, strict=True)]


def reciprocal_ranks(items: Sequence[Item], results: Sequence[Sequence[Likelihood]]) -> list[float]:
    """One over the rank of the right choice, for every item."""
    return [1 / rank(item, one) for item, one in zip(items, results, strict=True)]


def _of_composite(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    items: Sequence[Item],
    on_batch: Callable[[int], None] | None,
) -> list[list[Likelihood]]:
    """`choice_likelihoods` of a composite model; choices of one token share a pass."""
    results = []
    for item in items:
        prompt = encode_for(model, processor, [list(item.messages)])
        first: Tensor | None = None
        likelihoods = []
        for choice in item.choices:
            tokens = torch.tensor(_encode_choice(processor.tokenizer, choice))
            rows = first if len(tokens) == 1 else None
            if rows is None:
                rows = continuation_log_probs(model, prompt, tokens)
                first = rows[:1]
            total = rows.gather(1, tokens[:, None]).sum().item()
            greedy = torch.equal(rows.argmax(-1), tokens)
            likelihoods.append(Likelihood(total, len(tokens), greedy))
        results.append(likelihoods)
        if on_batch:
            on_batch(len(likelihoods))
    return results


def _encode_choice(tokenizer: PreTrainedTokenizerBase, choice: str) -> list[int]:
    """The token ids of a choice.

    Raises:
        WingsError: there are none.
    """
    ids = tokenizer.encode(choice, add_special_tokens=False)
    if not ids:
        raise WingsError(f"The choice {choice!r} has no tokens; give it a text.")
    return ids


def _encode_prompt(
    processor: ProcessorMixin | PreTrainedTokenizerBase, item: Item
) -> dict[str, torch.Tensor]:
    """One prompt: `input_ids` [T], and `pixel_values` [n, 3, H, W] and the like of its items."""
    batch = encode(processor, [list(item.messages)])
    values = {name: one for name, one in batch.items() if VALUES.fullmatch(name)}
    return {"input_ids": batch["input_ids"][0], **values}
