"""Learners off in the last turn: what a gate would reach that knew which turns are about text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wings.errors import WingsError
from wings.eval.generate import answer_items, batch_by_length, encode
from wings.eval.items import Item
from wings.eval.models import EvalModel
from wings.layers.router import GateMask
from wings.layers.wings_pass import WingsPass
from wings.model.causal_lm import WingsForCausalLM


def answers_with_last_turn_off(
    model: EvalModel, items: Sequence[Item], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Greedy answers to items while no learner acts on the last question and its answer.

    Args:
        model: a Wings model.
        items: conversations; earlier turns are read with learners.
        batch_size: conversations per batch.
        max_new_tokens: longest answer, in tokens.

    Raises:
        WingsError: a chat template that renders a turn differently once another follows.
    """
    assert isinstance(model.model, WingsForCausalLM)
    answers = [""] * len(items)
    for chosen in batch_by_length(items, batch_size):
        batch = [items[n] for n in chosen]
        starts = torch.tensor([last_turn(model.processor, item) for item in batch])
        with learners_off_from(model.model, starts):
            predictions = answer_items(
                model.model, model.processor, batch,
                batch_size=len(batch), max_new_tokens=max_new_tokens,
            )  # fmt: skip
        for n, prediction in zip(chosen, predictions, strict=True):
            answers[n] = prediction
    return answers


@contextmanager
def learners_off_from(model: WingsForCausalLM, starts: Tensor) -> Iterator[None]:
    """Within it, no learner or adapter acts on tokens from a position on; others are as before.

    Args:
        model: reads batches of B rows within the context.
        starts: `[B]` int64, the first position of each row, which counts no padding.
    """

    def close(decoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        wings: WingsPass | None = kwargs.get("wings")
        if wings is not None:
            position = wings.queries.position
            kwargs = {
                **kwargs,
                "wings": masked(wings, position < starts.to(position.device)[:, None]),
            }
        return args, kwargs

    handle = model.model.language_model.register_forward_pre_hook(close, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def masked(wings: WingsPass, mask: Tensor) -> WingsPass:
    """A pass whose learners and adapters act only where `mask` `[B, T]` is True as well."""
    learners, adapters = wings.learners, wings.adapters
    if learners is not None:
        senses = {
            name: replace(one, gate_mask=one.gate_mask.within(mask))
            for name, one in learners.senses.items()
        }
        learners = replace(learners, senses=senses)
    if adapters is not None:
        gate_mask = adapters.gate_mask
        gate_mask = GateMask(mask[..., None]) if gate_mask is None else gate_mask.within(mask)
        adapters = replace(adapters, gate_mask=gate_mask)
    return replace(wings, learners=learners, adapters=adapters)


def last_turn(processor: Any, item: Item) -> int:
    """The number of tokens before the last question of an item."""
    earlier = list(item.messages[:-1])
    if not earlier:
        return 0
    whole = encode(processor, [list(item.messages)])["input_ids"][0]
    start = processor.encode(earlier)["input_ids"]
    if not torch.equal(whole[: len(start)], start):
        raise WingsError(
            "The chat template renders a turn differently once another follows, so the tokens of "
            "the last turn cannot be told apart; use a template that renders each turn alone."
        )
    return len(start)
