"""Keys of the main attention: masks, layouts and ranges that blocks share."""

import torch

from wings.attention.main_keys import MainKeys
from wings.attention.token_layout import TEXT, TokenLayout


def layouts():
    """Two rows of two sequences each, and their last three tokens."""
    segment = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
    zero = torch.zeros_like(segment)
    keys = TokenLayout.of(
        position=zero, visible_at=zero, segment=segment, kind=zero + TEXT, begun=[zero]
    )
    return TokenLayout(keys.table[:, 2:]), keys


def test_masks_end_at_the_borders_of_sequences_and_are_made_once():
    queries, tokens = layouts()
    same = queries.segment[:, :, None] == tokens.segment[:, None, :]
    causal = torch.ones(3, 5, dtype=torch.bool).tril(2)
    given = torch.rand(2, 1, 3, 5) < 0.7
    added = torch.zeros(given.shape).masked_fill(~given, -1e4)
    keys = MainKeys(queries, tokens, None, is_plain=True)
    assert torch.equal(keys.within_sequences(None, 5), (same & causal)[:, None])
    assert torch.equal(keys.within_sequences(given, 5), given & same[:, None])
    cut = keys.within_sequences(added, 5)
    assert cut.dtype == added.dtype
    assert torch.equal(keys.visible(cut, 5), given & same[:, None])
    assert torch.equal(keys.visible(given, 4), given[..., :4]) and keys.visible(None, 5) is None
    for mask in (None, given, added):
        assert keys.within_sequences(mask, 5) is keys.within_sequences(mask, 5)
    assert keys.visible(added, 5).data_ptr() == keys.visible(added, 3).data_ptr()


def test_the_last_keys_are_those_of_a_window_or_of_a_static_cache():
    queries, tokens = layouts()
    window = MainKeys(queries, tokens, None, is_plain=True)
    assert window.layout(5) is tokens
    assert torch.equal(window.layout(4).table, tokens.table[:, 1:])
    for held, start in ((3, 0), (5, 1)):
        static = MainKeys(queries, tokens, torch.tensor(held), is_plain=True)
        assert torch.equal(static.layout(4).table, tokens.table[:, start : start + 4])
        assert static.ranges(5, None) is None
