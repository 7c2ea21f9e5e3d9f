"""`KeyRanges` against the mask of visible keys."""

import random

import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from wings.kernels.key_ranges import KeyRanges


def random_key_ranges(seed):
    draw = random.Random(seed)
    queries, keys, rows = draw.randint(1, 30), draw.randint(1, 30), draw.randint(1, 3)
    if draw.random() < 0.3:
        return KeyRanges.causal(queries, keys, draw.choice([None, 1, 3]))
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, keys + 1, (2, rows, queries), generator=generator)
    if draw.random() < 0.5:
        a, b = a.sort(1).values, b.sort(1).values
    return KeyRanges(torch.minimum(a, b), torch.maximum(a, b), keys)


@examples(150)
@given(seed=st.integers(0, 100_000), m=st.sampled_from([2, 4, 8]), n=st.sampled_from([2, 4, 8]))
def test_visited_blocks_hold_all_visible_keys(seed, m, n):
    key_ranges = random_key_ranges(seed)
    sees = key_ranges.mask()
    by_queries, by_keys = key_ranges.block_spans(m, n)
    for row in range(sees.shape[0]):
        for i in range(by_queries.shape[1]):
            for j in range(by_keys.shape[1]):
                block = sees[row, i * m : (i + 1) * m, j * n : (j + 1) * n]
                for low, full_low, full_high, high, index in (
                    (*by_queries[row, i].tolist(), j),
                    (*by_keys[row, j].tolist(), i),
                ):
                    assert low <= full_low <= full_high <= high
                    if block.any():
                        assert low <= index < high
                    if full_low <= index < full_high:
                        assert block.all() and block.shape[1] == n


def test_causal_ranges_skip_future_blocks():
    by_queries, by_keys = KeyRanges.causal(16, 16).block_spans(4, 4)
    assert by_queries[0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 0, 2, 3], [0, 0, 3, 4]]
    assert by_keys[0].tolist() == [[0, 1, 4, 4], [1, 2, 4, 4], [2, 3, 4, 4], [3, 3, 3, 4]]
