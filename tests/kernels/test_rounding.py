"""Tests of the error budgets: rounding passes, a fault fails."""

import lorra_case
import pytest
import routed_case as routed
import torch
import triton
import triton.language as tl
from lorra_case import DEVICE, DTYPES, Case, on_device
from rounding import RandomRounding

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.tiles import round_to

# Few numbers, where one draw of the rounding may be exact by chance, and more.
SIZES = [(2, 5), (30, 37)]


def learner(dtype, size):
    return Case(
        dtype, on_device(KeyRanges.causal(*size)), heads=2, width=16, rank=3, seed=sum(size)
    )


def with_a_wrong_scale(x, t, source, c_k, c_v, b_q, *rest):
    return lorra_case.definition(1.02 * x, t, source, c_k, c_v, 1.02 * b_q, *rest)


def without_a_low_rank_term(x, t, source, c_k, *rest):
    return lorra_case.definition(x, t, source, 0 * c_k, *rest)


def without_the_rotation_of_keys(*given):
    *rest, (cos, _), key_ranges = given
    return lorra_case.definition(*rest, (torch.ones_like(cos), torch.zeros_like(cos)), key_ranges)


def with_a_key_too_many(*given):
    *rest, key_ranges = given
    end = key_ranges.end.clone()
    end[:, 0] += 1
    return lorra_case.definition(*rest, KeyRanges(key_ranges.first, end, key_ranges.count))


FAULTS = [without_a_low_rank_term, without_the_rotation_of_keys, with_a_key_too_many]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_definition_in_its_own_precision_keeps_the_budget(dtype, size):
    learner(dtype, size).check(lorra_case.definition)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_in_every_precision(fault, dtype, size):
    with pytest.raises(AssertionError, match="against"):
        learner(dtype, size).check(fault)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scores_wrong_by_two_percent_are_refused(dtype, size):
    """bfloat16 itself has nearly that error, so only the finer dtypes can detect it."""
    with pytest.raises(AssertionError, match="against"):
        learner(dtype, size).check(with_a_wrong_scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", ["none", "scale", "key", "columns"])
def test_routed_attention_has_such_a_budget_too(fault, dtype):
    def operation(q, k, v, columns, key_ranges, scale):
        sees = key_ranges.mask().clone()
        sees[:, 0, 1] |= fault == "key"
        scale = scale * (1.1 if dtype == torch.bfloat16 else 1.02) ** (fault == "scale")
        columns = columns * (fault != "columns")
        return routed.definition(q, k, v, columns, sees, scale)

    inputs = routed.arguments((2, 4, 2, 9, 12), dtype)
    key_ranges = KeyRanges.causal(9, 9, device=DEVICE)
    key_ranges = KeyRanges(key_ranges.first, key_ranges.end, 12)
    if fault == "none":
        routed.compare(inputs, key_ranges, 0.25, operation=operation)
    else:
        with pytest.raises(AssertionError, match="against"):
            routed.compare(inputs, key_ranges, 0.25, operation=operation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_at_random_goes_to_neighbours_and_moves_nothing_on_average(dtype):
    exact = torch.randn(400, dtype=torch.float64) * 10.0 ** torch.arange(-2, 2).repeat(100)
    held = exact.to(dtype).double()
    draws = []
    for seed in range(200):
        with RandomRounding(dtype, seed):
            assert torch.equal(held * 1.0, held)
            draws.append(exact * 1.0)
    draws, eps = torch.stack(draws), torch.finfo(dtype).eps
    assert torch.equal(draws.to(dtype).double(), draws)
    assert ((draws - exact).abs() < eps * exact.abs()).all()
    # Half a step is the standard deviation of a draw, at most; of means of 200, six of theirs.
    assert ((draws.mean(0) - exact).abs() <= 6 * 0.5 / 200**0.5 * eps * exact.abs()).all()


@triton.jit
def rounding_kernel(p_in, p_out, COUNT: tl.constexpr):
    o_place = tl.arange(0, COUNT)
    b_found = round_to(tl.load(p_in + o_place), p_out.dtype.element_ty)
    tl.store(p_out + o_place, b_found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_round_to_the_nearest(dtype):
    numbers = torch.randn(1024, device=DEVICE)
    # Ties, whose neighbours end in even and odd digits; and what has no neighbours.
    numbers[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11])
    numbers[4:8] = torch.tensor([0.0, float("inf"), float("-inf"), float("nan")])
    found = torch.empty(1024, dtype=dtype, device=DEVICE)
    rounding_kernel[(1,)](numbers, found, COUNT=1024)
    torch.testing.assert_close(found, numbers.to(dtype), rtol=0, atol=0, equal_nan=True)
