"""The benchmark's formulas of operations and bytes, on cases counted by hand."""

import pytest
import torch

from wings.attention.token_layout import IMAGE, TEXT
from wings.kernels.bench import roofline
from wings.kernels.bench.inputs import layout
from wings.kernels.bench.setting import CPU, GPU, Shape

CPU_DEVICE = torch.device("cpu")
SHAPE = Shape(24, 4, 2, 40, layers=2, decoding_layers=2, vocabulary=11, rank=3, pixels=28)


def test_work_of_routed_attention_by_hand():
    # One row, two heads of width 3 on one key head, two tokens: three pairs, and one column.
    at = roofline.Attended(1, 2, 2, 3, size=2)
    work, back = roofline.routed_attention(at, heads=2, groups=1, width=3, columns=1)
    # q k^T 3, P v 3, P w 1 multiplications a head and pair.
    assert work.operations == 2 * (2 * 3) * (3 + 3 + 1)
    # q and out 12 numbers each, k and v 6 each, columns 2; sums 2 in four bytes.
    assert work.bytes == 2 * (12 + 12 + 6 + 6 + 2) + 4 * 2
    # Scores, dP, dq, dk, dv of 3, dP by the column and its gradient of 1.
    assert back.operations == 2 * (2 * 3) * (5 * 3 + 2)
    # q, k, v, columns, out, d out, d sums in; dq, dk, dv, d columns out.
    assert back.bytes == 2 * (12 + 6 + 6 + 2 + 12 + 12) + 4 * 2 + 2 * (12 + 6 + 6 + 2)


def test_work_of_a_learner_by_hand():
    # D 24 in 4 heads, rank 3; two rows of five tokens that see seven pairs of four keys.
    at = roofline.Attended(2, 5, 4, 7, size=2)
    work, back = roofline.lorra_attention(at, SHAPE)
    products = 2 * (5 * 24 * 3 + 4 * 24 * 3 + 4 * 24 * 3)
    plain = products + 2 * 5 * 24 * 3 + 2 * 7 * 24
    folded = products + 2 * 4 * 4 * 3 * 3 + 2 * 7 * 4 * 3
    assert work.operations == 2 * (2 * 7 * 24 + min(plain, folded))
    assert work.bytes == 2 * (2 * (5 * (24 + 3 + 3) + 4 * (24 + 6)) + 4 * 24 * 3)
    # Folded is cheaper: its products three times; per pair the scores, dq and dk of 24, dP and dU.
    assert folded < plain
    around = products + 2 * 4 * 4 * 3 * 3
    assert back.operations == 2 * (3 * around + 2 * 7 * (3 * 24 + 2 * 4 * 3))
    assert back.bytes == 2 * work.bytes


def test_floor_is_the_slower_of_arithmetic_and_memory():
    ceilings = roofline.Ceilings(operations=100.0, bytes=10.0)
    assert roofline.Work(300, 20).floor(ceilings) == 3.0
    assert roofline.Work(300, 50).floor(ceilings) == 5.0


@pytest.mark.parametrize("length", [17, 40])
def test_pairs_of_learners_are_those_of_layouts(length):
    rows = layout(SHAPE, 1, length, CPU_DEVICE)
    for kind, (keys, pairs) in zip((IMAGE, TEXT), SHAPE.learner_sizes(length), strict=True):
        of_kind = rows.gather((rows.kind == kind).nonzero()[:, 1][None])
        assert (of_kind.length, int(rows.sees(of_kind).sum())) == (keys, pairs)


def test_work_of_the_kernels_in_a_step_by_hand():
    # One block, D 24 in 4 heads, rank 3; 40 tokens, 4 of them of the image.
    shape = Shape(24, 4, 4, 40, layers=1, decoding_layers=1, vocabulary=11, rank=3, pixels=28)
    length, causal = 40, 820
    matrix = 6 * length * (4 * 24 * 24 + 3 * 24 * 40 + 24 * 11)
    attention = 14 * causal * 24
    ours, more = 2 * causal * (9 * 24 + 4 * 4 * 16), 0
    for keys, pairs in ((4, 30 * 4), (36, 55 + 30 * 10 + 26 * 27 // 2)):
        ours += 2 * pairs * (5 * 24 + 4 * 4 * 3)
        more += 72 * (2 * (40 + 2 * keys) + 8 * (40 + keys) + 6 * (80 + 2 * keys)) + 72 * keys
    expected = (matrix + more + ours) / (matrix + attention)
    assert roofline.kernel_step_ratio(shape, length) == pytest.approx(expected, rel=1e-12)
    slow = roofline.kernel_step_ratio(shape, length, roofline.Speeds(ours=0.5))
    assert slow == pytest.approx((matrix + more + 2 * ours) / (matrix + attention), rel=1e-12)


def test_the_kernels_run_more_than_the_fewest_operations():
    """D 4,096 and 729 image tokens, S 2,048: 1.08, where 1.05 is the fewest."""
    shape = GPU.shapes[0]
    found = roofline.kernel_step_ratio(shape, 2048)
    assert 1.07 < found < 1.08 and found > roofline.step_ratio(shape, 2048)
    # Our attention at half the speed of everything else.
    assert 1.15 < roofline.kernel_step_ratio(shape, 2048, roofline.Speeds(ours=0.5)) < 1.20


def test_step_ratio_grows_with_rank_and_falls_with_width():
    narrow, wide = CPU.shapes[0], GPU.shapes[0]
    assert 1 < roofline.step_ratio(wide, 2048) < roofline.step_ratio(narrow, 2048) < 2
