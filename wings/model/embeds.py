"""Counts items and their tokens, and puts features in place of the tokens' embeddings."""

from itertools import accumulate

import torch
from torch import Tensor

from wings.attention.token_layout import PADDING, TokenLayout
from wings.cache.learner_cache import PendingFeatures
from wings.errors import WingsError
from wings.sense import Sense, Words


def count_items(
    sense: Sense, is_item: Tensor, items: int, waiting: list[int], may_cut: bool
) -> list[int]:
    """Counts the items that begin in each row, after checking that tokens and items agree.

    Args:
        sense: of the items; its `seq_length` tokens stand for one.
        is_item: `[B, T]` bool.
        items: how many there are for the whole batch.
        waiting: per row, features left of an item that an earlier chunk began.
        may_cut: whether the last item of a row may go on in a later chunk.

    Raises:
        WingsError: the counts differ or an item is cut, with the row.
    """
    assert sense.seq_length is not None, "a model knows its encoders"
    seq_length = sense.seq_length
    tokens = is_item.sum(1).tolist()
    fresh = [max(found - late, 0) for found, late in zip(tokens, waiting, strict=True)]
    begun = [-(-count // seq_length) for count in fresh]
    for row, count in enumerate(fresh):
        if count % seq_length and not may_cut:
            words = Words.of(sense.name)
            raise WingsError(
                f"Row {row} has {count} {sense.name} tokens, but {words.one} takes {seq_length}: "
                f"{words.one} was cut, so shorten the text by whole turns instead."
            )
    if items:
        validate_contiguous(sense, is_item, seq_length, waiting)
    if sum(begun) != items:
        # Items are used in reading order: the first row without enough of them, or the last.
        totals = list(accumulate(begun))
        row = next((row for row, used in enumerate(totals) if used > items), len(begun) - 1)
        words = Words.of(sense.name)
        raise WingsError(
            f"{sense.values_name} has {items} {words.many}, but the {sense.name} tokens of "
            f"input_ids make {sum(begun)} ({seq_length} tokens {words.one}; see row {row}, which "
            f"has room for {begun[row]}): give one {sense.name} per placeholder."
        )
    return begun


def validate_contiguous(sense: Sense, is_item: Tensor, seq_length: int, waiting: list[int]) -> None:
    """Raises a `WingsError` if other tokens are between those of one item."""
    late = torch.tensor(waiting, device=is_item.device)[:, None]
    ordinal = is_item.long().cumsum(1) - late
    goes_on = is_item & (ordinal > 0) & ((ordinal - 1) % seq_length != 0)
    broken = (goes_on[:, 1:] & ~is_item[:, :-1]).any(1)
    if broken.any():
        row = int(broken.long().argmax())
        raise WingsError(
            f"Row {row} has other tokens between the {seq_length} tokens of "
            f"{Words.of(sense.name).one.replace('an ', 'one ', 1)}: write them one after another."
        )


def place(
    embeddings: Tensor,
    is_item: Tensor,
    features: Tensor | None,
    begun: list[int],
    late: PendingFeatures | None,
) -> tuple[Tensor, PendingFeatures | None]:
    """Replaces the embeddings of a sense's tokens, `[B, T, D]`, by features; also returns the rest.

    `features [N, P, D]` are the items that begin here, `begun` of them in each row; `late` are
    features of items that an earlier chunk began.
    """
    if features is None and late is None:
        return embeddings, None
    width = embeddings.shape[-1]
    if late is None and features is not None:
        total = is_item.sum()
        if total == features.shape[0] * features.shape[1]:
            return embeddings.masked_scatter(is_item[..., None], features.to(embeddings)), None
    streams, start = [], 0
    for row, count in enumerate(begun):
        parts = []
        if late is not None:
            parts.append(late.of(row).to(embeddings))
        if features is not None:
            parts.append(features[start : start + count].reshape(-1, width).to(embeddings))
        start += count
        streams.append(torch.cat(parts))
    used = is_item.sum(1).tolist()
    now = torch.cat([stream[:count] for stream, count in zip(streams, used, strict=True)])
    left = [stream[count:] for stream, count in zip(streams, used, strict=True)]
    embeddings = embeddings.masked_scatter(is_item[..., None], now)
    if not any(len(rows) for rows in left):
        return embeddings, None
    waiting = torch.tensor([len(rows) for rows in left], device=embeddings.device)
    return embeddings, PendingFeatures(
        torch.nn.utils.rnn.pad_sequence(left, batch_first=True), waiting
    )


def layout_of_later(left: PendingFeatures, queries: TokenLayout, begun: list[int]) -> TokenLayout:
    """Returns the layout `[B, P]` of the features of items begun here that come in the next chunk.

    `PADDING` for rows that have none, or that go on with an item of an earlier chunk still.
    """
    # They follow the newest token of their row, which is of the same item.
    newest = (queries.kind != PADDING).long().cumsum(1).argmax(1, keepdim=True)
    nth = torch.arange(1, left.features.shape[1] + 1, device=newest.device)
    starts_here = torch.tensor(begun, device=newest.device) > 0
    last = queries.gather(newest.expand(-1, len(nth)))
    comes = (nth <= left.count[:, None]) & starts_here[:, None]
    return last.replace(position=last.position + nth).padded_where(~comes)
