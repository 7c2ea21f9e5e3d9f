"""Segments: together they show each query the keys of its range."""

import random

import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from wings.kernels import segments
from wings.kernels.key_ranges import KeyRanges


def key_ranges_of_a_model(seed):
    """Rows as decoders have them: padding on either side, several sequences, maybe a window."""
    draw = random.Random(seed)
    length, window = draw.randint(1, 40), draw.choice([None, None, 1, 3, 9])
    first, end = [], []
    for _ in range(draw.randint(1, 3)):
        before, after = draw.choice([0, draw.randint(0, length)]), 0
        if draw.random() < 0.5:
            before, after = 0, before
        starts, row = [], []
        for slot in range(length):
            if slot < before or slot >= length - after:
                row.append((0, 0))
                continue
            if not starts or draw.random() < 0.1:
                starts.append(slot)
            low = starts[-1] if window is None else max(starts[-1], slot + 1 - window)
            row.append((low, slot + 1))
        first.append([low for low, _ in row])
        end.append([high for _, high in row])
    return KeyRanges(torch.tensor(first), torch.tensor(end), length), window


@examples(200)
@given(seed=st.integers(0, 1_000_000), longest=st.sampled_from([1, 2, 5, 256]))
def test_segments_see_what_ranges_see(seed, longest):
    key_ranges, window = key_ranges_of_a_model(seed)
    previous, segments.LONGEST = segments.LONGEST, longest
    try:
        rows = key_ranges.segments
    finally:
        segments.LONGEST = previous
    sees = torch.zeros_like(key_ranges.mask())
    for row, own in enumerate(rows):
        # Consecutive, so that results can be joined.
        assert [one.start for one in own] == [0, *(one.stop for one in own[:-1])]
        assert own[-1].stop == key_ranges.queries
        for one in own:
            part = sees[row, one.start : one.stop, one.first : one.end]
            if one.is_blind:
                assert one.additive(torch.float32) is None and not part.numel()
            elif one.mask is None:
                assert (one.first, one.end) == (one.start, one.stop)
                part.copy_(torch.ones_like(part).tril())
            else:
                assert window is not None and one.stop - one.start <= longest
                assert one.mask.any(-1).all()
                part.copy_(one.mask)
                added = one.additive(torch.float64)
                assert torch.equal(added == 0, one.mask) and added is one.additive(torch.float64)
    assert torch.equal(sees, key_ranges.mask())
