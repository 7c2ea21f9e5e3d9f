"""KL divergence between the next-token distributions of two models, and those of an answer."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wings.processing.tokenization import IGNORED


def divergence_terms(expected: Tensor, found: Tensor) -> Tensor:
    """Terms of KL(expected || found) for each token of the vocabulary, in nats.

    Args:
        expected: [..., V] log-probabilities.
        found: [..., W]. Checkpoints pad their vocabularies differently; no token has the rows
            beyond the smaller one, which are left out.

    Returns:
        [..., min(V, W)]; their sum over the last dimension is the divergence.
    """
    common = min(expected.shape[-1], found.shape[-1])
    p, q = expected[..., :common], found[..., :common]
    # A token with p = 0 contributes nothing; p * log p would be NaN.
    return torch.where(p > -math.inf, p.exp() * (p - q), 0)


def divergence(expected: Tensor, found: Tensor) -> float:
    """The sum of KL(expected || found) over rows of log-probabilities [N, V], in nats."""
    return divergence_terms(expected, found).sum(dtype=torch.float64).item()


def answer_log_probs(
    model: PreTrainedModel, sample: dict[str, Tensor], count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities before each of the last `count` tokens of answers, and these tokens.

    Args:
        model: reads the sample.
        sample: one conversation: `input_ids` [T], `labels` [T] with `IGNORED` outside of answers,
            and the pictures' inputs.
        count: tokens; None for all tokens of the assistant's turns.

    Returns:
        [count, V] float32 and [count] int64, both on the CPU.
    """
    inputs = {name: value for name, value in sample.items() if name != "labels"}
    ids = inputs["input_ids"]
    positions = (sample["labels"][1:] != IGNORED).nonzero()[:, 0]
    positions = positions if count is None else positions[-count:]
    inputs["input_ids"] = ids[None]
    logits = model(**{name: value.to(model.device) for name, value in inputs.items()}).logits[0]
    rows = logits[positions.to(model.device)].float().log_softmax(-1).cpu()
    return rows, ids[positions + 1]
