"""Counts tokens, items and attention pairs of a batch, as integers on its device."""

from typing import Any

import torch
from torch import Tensor

from wings.attention.token_layout import PADDING, TEXT, TokenLayout
from wings.config import WingsConfig
from wings.model.inputs import kinds_of
from wings.sense import IMAGE, Sense
from wings.sense import TEXT as OF_TEXT

# Places, tokens, trained tokens, and pairs of a token and a visible one.
NAMES = ("places", "tokens", "trained", "pairs")


def names_of(config: WingsConfig) -> tuple[str, ...]:
    """Names of the counts for a model: `NAMES`, and those of each sense."""
    return (*NAMES, *(name for sense in config.senses.values() for name in names_of_sense(sense)))


def names_of_sense(sense: Sense) -> list[str]:
    """Tokens and items of a sense, and of each learner: queries, sources, and pairs of both."""
    names = [tokens_of(sense.name), items_of(sense.name)]
    for module in modules_of(sense):
        names += [f"{module}_queries", f"{module}_sources", f"{module}_pairs"]
    return names


def tokens_of(sense: str) -> str:
    """The name of the count of a sense's tokens."""
    return f"{sense}_tokens"


def items_of(sense: str) -> str:
    """The name of the count of a sense's items."""
    return "images" if sense == IMAGE else f"{sense}_items"


def modules_of(sense: Sense) -> tuple[str, str]:
    """The learner of a sense's items and that of text, as a block names them; it may lack one."""
    return sense.module_of(sense.name), sense.module_of(OF_TEXT)


def layout_of(batch: dict[str, Any], config: WingsConfig) -> TokenLayout:
    """The token layout of a batch, as the model computes it."""
    senses = config.senses
    return TokenLayout.read(
        kinds_of(batch["input_ids"], senses),
        batch.get("attention_mask"),
        batch.get("position_ids"),
        [sense.seq_length or 0 for sense in senses.values()],
    )


def count(batch: dict[str, Any], config: WingsConfig) -> Tensor:
    """The counts of `names_of` for one batch, int64, on its device; does not synchronise."""
    layout = layout_of(batch, config)
    is_real = layout.kind != PADDING
    numbers = [
        torch.full_like(is_real, True, dtype=torch.long).sum(),
        is_real.sum(),
        (batch["labels"][:, 1:] != -100).sum(),
        torch.where(is_real, layout.position + 1, 0).sum(),
    ]
    for sense in config.senses.values():
        numbers += count_sense(batch, sense, layout)
    return torch.stack(numbers)


def count_sense(batch: dict[str, Any], sense: Sense, layout: TokenLayout) -> list[Tensor]:
    """The counts of `names_of_sense`."""
    is_real, is_text = layout.kind != PADDING, layout.kind == TEXT
    is_item = layout.kind == sense.kind
    values = batch.get(sense.values_name)
    items = 0 if values is None else len(values)
    active = bool(sense.learners) and (items > 0 or not sense.guard)
    queries = layout.sees_sense(sense.kind) if sense.guard else is_real
    starts = (layout.position == 0) & is_real
    # Every token of an item sees the whole item, also the tokens after it.
    rest = torch.where(is_item, layout.visible_at + (sense.seq_length or 0) - 1, 0)
    rest = torch.where(is_item, rest - layout.position, 0)
    visible = (running_count(is_item, starts) + rest, running_count(is_text, starts))
    numbers = [is_item.sum(), is_real.new_tensor(items, dtype=torch.long)]
    for name, sources, seen in zip((sense.name, OF_TEXT), (is_item, is_text), visible, strict=True):
        on = active and name in sense.learners
        sees = queries & (seen > 0)
        numbers += [part.sum() * on for part in (sees, sources, torch.where(sees, seen, 0))]
    return numbers


def running_count(mask: Tensor, starts: Tensor) -> Tensor:
    """Number of True values up to and including each token of its sequence, `[B, T]`."""
    total = mask.long().cumsum(1)
    before = torch.where(starts, total - mask.long(), 0).cummax(1).values
    return total - before
