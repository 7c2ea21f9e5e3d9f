"""Routed attention's kernels against the definition in float64."""

import contextlib
import random

import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from routed_case import (
    DEVICE,
    DTYPES,
    LAYOUTS,
    NAMES,
    arguments,
    compare,
    compare_to_wide,
    definition,
    make_key_ranges,
    poisoned_memory,
    random_key_ranges,
    setting,
)

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.routed_attention import forward as forward_file
from wings.kernels.routed_attention.forward import routed_attention
from wings.kernels.tuning import descriptor_loads

# Every layout in float32 and in one of the half types, which take turns.
COVERING = [
    (layout, dtype)
    for number, layout in enumerate(LAYOUTS)
    for dtype in (torch.float32, (torch.float16, torch.bfloat16)[number % 2])
]


@pytest.mark.parametrize(("layout", "dtype"), COVERING, ids=str)
@examples(1)
@given(seed=st.integers(0, 1_000_000))
def test_any_layout_and_shape(layout, dtype, seed):
    # Fixed seeds are the same for all layouts and dtypes; the shapes vary.
    draw = random.Random(f"{layout} {dtype} {seed}")
    rows, group, key_heads = draw.randint(1, 2), draw.choice([1, 2, 3]), draw.randint(1, 2)
    queries, keys = draw.randint(1, 50), draw.randint(1, 50)
    inputs = arguments(
        (rows, group * key_heads, key_heads, queries, keys),
        dtype,
        seed,
        width=draw.choice([4, 16, 24]),
        value_width=draw.choice([8, 16, 20]),
        columns=draw.choice([1, 2, 3, 4, 17]),
    )
    key_ranges, scale = (
        random_key_ranges(layout, seed, rows, queries, keys),
        draw.choice([0.1, 0.25, 1.0]),
    )
    parts = draw.choice([n for n in (1, 2, 3) if group % n == 0])
    with setting(draw.choice([16, 32]), draw.choice([16, 32]), parts):
        compare(inputs, key_ranges, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 64, 72, 80, 128, 192, 256])
def test_head_widths_with_the_blocks_of_the_table(width, dtype):
    inputs = arguments((1, 2, 1, 37, 45), dtype, width, width, columns=1 + width % 4)
    with poisoned_memory():
        compare(inputs, KeyRanges.causal(37, 45, device=DEVICE), width**-0.5)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_gradients_of_any_number_of_columns(columns):
    inputs = arguments((2, 4, 2, 33, 40), torch.bfloat16, columns, 32, columns=columns)
    with setting():
        got = compare(inputs, KeyRanges.causal(33, 40, window=21, device=DEVICE), 0.2)
    assert got["dcolumns"].shape[-1] == columns


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_blocks_between_two_partial_ones(dtype):
    key_ranges = KeyRanges.causal(48, 48, window=36, device=DEVICE)
    assert any(a < b < c < d for a, b, c, d in key_ranges.block_spans(16, 16)[0][0].tolist())
    inputs = arguments((1, 2, 1, 48, 48), dtype, 5, 32)
    with setting(16, 16):
        compare(inputs, key_ranges, 0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_a_column_of_ones_are_one(dtype):
    """Columns that split the keys into kinds split the weight too."""
    q, k, v, _ = arguments((1, 9, 3, 40, 40), dtype, 2, 16)
    kind = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0))
    columns = torch.cat([torch.ones(40, 1), torch.eye(3)[kind]], 1)[None].to(DEVICE)
    with setting():
        _, sums = routed_attention(q, k, v, columns, KeyRanges.causal(40, 40, device=DEVICE), 0.3)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(sums[..., 0], torch.ones_like(sums[..., 0]), rtol=0, atol=eps)
    torch.testing.assert_close(sums[..., 1:].sum(-1), sums[..., 0], rtol=0, atol=1e-5)


def test_scores_that_overflow_fp16_or_stand_far_apart():
    inputs = arguments((1, 2, 2, 20, 20), torch.float16, 3, 64, spread=60.0)
    assert (inputs[0].double() @ inputs[1].double().mT).abs().max() > 65504
    with setting():
        results = compare_to_wide(inputs, KeyRanges.causal(20, 20, device=DEVICE), 0.125)
    assert all(result.isfinite().all() for result in results)


def test_gradients_too_small_for_fp16_as_a_share_of_a_head():
    """A 16th of these gradients of the sums would be lost in fp16; the sums are fp32."""
    inputs = arguments((1, 16, 1, 16, 16), torch.float16, 4, 16)
    key_ranges = KeyRanges.causal(16, 16, device=DEVICE)
    pull = torch.full((1, 16, 2), 2.0**-20, device=DEVICE)
    pull[..., 1] *= -1.25
    exact = [x.detach().double().requires_grad_() for x in inputs]
    _, sums = definition(*exact, key_ranges.mask(), 0.25)
    wanted = torch.autograd.grad(sums, exact[3], pull.double())[0]
    with setting():
        _, sums = routed_attention(*inputs, key_ranges, 0.25)
        got = torch.autograd.grad(sums, inputs[3], pull)[0].double()
    assert float((got - wanted).norm() / wanted.norm()) < 2e-3


def test_blind_queries_and_unseen_keys_get_exact_zeros():
    inputs = arguments((1, 2, 1, 20, 24), torch.float32, 6)
    # Query 3 and the queries from 17 on see nothing; nobody sees key 0 nor the keys from 20 on.
    first = [[1] * 20]
    end = [[20 if i % 2 else 9 for i in range(20)]]
    for blind in (3, 17, 18, 19):
        first[0][blind], end[0][blind] = 7, 7
    with setting():
        got = compare(inputs, make_key_ranges(first, end, 24), 0.5)
    blind = [3, 17, 18, 19]
    assert not got["out"][:, blind].any() and not got["sums"][:, blind].any()
    assert not got["dq"][:, :, blind].any()
    for name in ("dk", "dv"):
        assert not got[name][:, :, [0, *range(20, 24)]].any(), name
        assert got[name][:, :, 1].any()
    assert not got["dcolumns"][:, [0, *range(20, 24)]].any()


@pytest.mark.parametrize(("rows", "queries", "keys"), [(1, 0, 5), (1, 5, 0), (1, 0, 0), (0, 4, 4)])
def test_nothing_to_do(rows, queries, keys):
    inputs = arguments((rows, 2, 1, queries, keys), torch.float16, columns=3)
    empty = torch.zeros(1, queries, dtype=torch.int32, device=DEVICE)
    out, sums = routed_attention(*inputs, KeyRanges(empty, empty, keys), 1.0)
    assert out.shape == (rows, queries, 2, 16) and out.dtype == torch.float16
    assert sums.shape == (rows, queries, 3) and sums.dtype == torch.float32
    assert not out.any() and not sums.any()
    for grad, x in zip(torch.autograd.grad([out.sum() + sums.sum()], inputs), inputs, strict=True):
        assert grad.shape == x.shape and not grad.any()


def test_strides_do_not_matter():
    key_ranges = KeyRanges.causal(20, 20, device=DEVICE)
    inputs = arguments((2, 2, 2, 20, 20), torch.float32, 7)
    shuffled = [
        x.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
        for x in inputs[:3]
    ]
    columns = inputs[3].detach().mT.contiguous().mT.requires_grad_()
    results = []
    with setting():
        for some in (inputs, [*shuffled, columns]):
            out, sums = routed_attention(*some, key_ranges, 0.3)
            # Gradients of a sum are one number, expanded.
            results.append([out, sums, *torch.autograd.grad(out.sum() + sums[..., 0].sum(), some)])
    for name, a, b in zip(NAMES, *results, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loads_by_descriptors_change_no_bit(monkeypatch, layout, dtype):
    """Rows past the last key are read as zeros, of no other head or row."""
    inputs = arguments((2, 4, 2, 37, 45), dtype, 5, 16, columns=2)
    key_ranges = random_key_ranges(layout, 5, 2, 37, 45)
    results, made = [], []
    own = forward_file.allocate_descriptors
    monkeypatch.setattr(
        forward_file, "allocate_descriptors", lambda device: made.append(device) or own(device)
    )
    for loads in (contextlib.nullcontext, descriptor_loads):
        with loads(), poisoned_memory():
            results.append(routed_attention(*inputs, key_ranges, 0.25))
    assert len(made) == 1
    for plain, described in zip(*results, strict=True):
        assert torch.equal(plain, described)


@pytest.mark.parametrize("kind", ["padded width", "stride", "address"])
def test_what_no_descriptor_can_load_is_loaded_as_before(monkeypatch, kind):
    key_ranges = KeyRanges.causal(20, 20, device=DEVICE)
    width = 20 if kind == "padded width" else 16
    q, k, v, columns = arguments((1, 2, 2, 20, 20), torch.float32, 3, width)
    if kind != "padded width":
        # Rows of 17 numbers, or a first number that 16 bytes do not divide.
        wide = torch.zeros(1, 2, 20, 17 if kind == "stride" else 20, device=DEVICE)
        first = 0 if kind == "stride" else 1
        wide[..., first : first + 16] = k.detach()
        k = wide[..., first : first + 16].requires_grad_()
    monkeypatch.setattr(forward_file, "allocate_descriptors", None)
    expected = routed_attention(q, k, v, columns, key_ranges, 0.25)
    with descriptor_loads():
        found = routed_attention(q, k, v, columns, key_ranges, 0.25)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_only_what_asks_for_a_gradient_gets_one():
    key_ranges = KeyRanges.causal(8, 8, device=DEVICE)
    q, k, v, columns = arguments((1, 2, 1, 8, 8), torch.float32, 8)
    kept = columns.detach()
    with setting():
        out, sums = routed_attention(q, k, v, kept, key_ranges, 0.5)
        got = torch.autograd.grad([out.sum() + sums.sum()], [q, k, v])
        out, sums = routed_attention(q, k, v, columns, key_ranges, 0.5)
        both = torch.autograd.grad([out.sum() + sums.sum()], [q, k, v, columns])
    # On a GPU these are two kernels, which may round differently.
    torch.testing.assert_close(got, both[:3], rtol=1e-5, atol=1e-6)
    with torch.no_grad(), setting():
        assert not routed_attention(q, k, v, columns, key_ranges, 0.5)[0].requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "width", "columns"),
    [
        ((2, 8, 2, 1000, 1000), 128, 2),
        ((1, 9, 3, 777, 1111), 64, 3),
        ((1, 4, 4, 1, 513), 80, 2),
        ((1, 4, 1, 300, 300), 256, 20),
        ((1, 2, 2, 257, 500), 24, 1),
        ((1, 3, 1, 129, 129), 192, 4),
    ],
)
def test_real_shapes_with_the_blocks_of_the_table(shape, width, columns, dtype):
    inputs = arguments(shape, dtype, width, width, columns=columns)
    for layout in LAYOUTS:
        compare(inputs, random_key_ranges(layout, width, shape[0], *shape[3:]), width**-0.5)


@pytest.mark.gpu
def test_the_same_bits_every_time():
    inputs = arguments((1, 8, 2, 1500, 1500), torch.bfloat16, 0, 128)
    key_ranges = KeyRanges.causal(1500, 1500, device=DEVICE)
    results = []
    for _ in range(3):
        out, sums = routed_attention(*inputs, key_ranges, 0.1)
        results.append([out, sums, *torch.autograd.grad(out.sum() + sums[..., 0].sum(), inputs)])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))
