"""What blocks that are given one mask share."""

import torch

from wings.attention.masks import Masks
from wings.attention.token_layout import Layout


def layouts():
    """Two rows of two sequences each, and their last three tokens."""
    segment = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
    table = torch.zeros(2, 5, 5, dtype=torch.long)
    table[..., 2] = segment
    return Layout(table[:, 2:]), Layout(table)


def test_masks_end_at_the_borders_of_sequences_and_are_made_once():
    queries, keys = layouts()
    same = queries.segment[:, :, None] == keys.segment[:, None, :]
    causal = torch.ones(3, 5, dtype=torch.bool).tril(2)
    given = torch.rand(2, 1, 3, 5) < 0.7
    added = torch.zeros(given.shape).masked_fill(~given, -1e4)
    masks = Masks()
    assert torch.equal(masks.cut(None, queries, keys), (same & causal)[:, None])
    assert torch.equal(masks.cut(given, queries, keys), given & same[:, None])
    cut = masks.cut(added, queries, keys)
    assert cut.dtype == added.dtype
    assert torch.equal(masks.seen(cut, 5), given & same[:, None])
    assert torch.equal(masks.seen(given, 4), given[..., :4]) and masks.seen(None, 5) is None
    for mask in (None, given, added):
        assert masks.cut(mask, queries, keys) is masks.cut(mask, queries, keys)
    assert masks.seen(added, 5).data_ptr() == masks.seen(added, 3).data_ptr()
