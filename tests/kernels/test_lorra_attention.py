"""LoRRA attention's kernels against the definition in float64."""

import random

import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from lorra_case import (
    DEVICE,
    DTYPES,
    LAYOUTS,
    Case,
    definition,
    on_device,
    random_key_ranges,
    use_blocks,
)  # fmt: skip
from routed_case import poisoned_memory

from wings.kernels import tuning
from wings.kernels.key_ranges import KeyRanges
from wings.kernels.lorra_attention import forward as forward_file
from wings.kernels.lorra_attention.forward import lorra_attention


@pytest.fixture(autouse=True)
def poisoned():
    with poisoned_memory():
        yield


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
    rows, queries, keys = draw.randint(1, 3), draw.randint(1, 40), draw.randint(1, 40)
    with pytest.MonkeyPatch.context() as patch:
        use_blocks(patch, draw.choice([16, 32]), draw.choice([16, 32]))
        patch.setattr(forward_file, "TARGET_PROGRAMS", draw.choice([1, 8, 1000]))
        key_ranges = random_key_ranges(layout, seed, rows, queries, keys)
        Case(
            dtype, key_ranges, rows, heads=draw.randint(1, 3),
            width=draw.choice([16, 20, 24]), rank=draw.choice([1, 3, 16, 20]), seed=seed,
            shared=draw.random() < 0.5,
        ).check()  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width, rank", [(16, 1), (80, 5), (128, 64), (256, 4), (32, 128)])
def test_any_width_and_rank(dtype, width, rank):
    key_ranges = on_device(KeyRanges.causal(33, 40))
    Case(dtype, key_ranges, batch=1, heads=2 if width < 256 else 1, width=width, rank=rank).check()


def test_one_row_of_runs_and_turns_serves_all_rows(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    Case(torch.float32, on_device(KeyRanges.causal(30, 37, window=9)), batch=3, shared=True).check()


def test_queries_and_keys_that_nothing_meets_are_exactly_zero(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    first, end = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 40, dtype=torch.long)
    first[0, 5:9], end[0, 5:9] = 3, 20
    first[0, 30:], end[0, 30:] = 17, 25
    got = Case(torch.float16, on_device(KeyRanges(first, end, 50))).check()
    blind = (end <= first).to(DEVICE)
    unseen = torch.ones(2, 50, dtype=torch.bool, device=DEVICE)
    unseen[0, 3:25] = False
    for name in ("out", "x", "t"):
        assert not got[name][blind].any(), name
        assert got[name][~blind].all(), name
    for name in ("source", "c_k", "c_v"):
        assert not got[name][unseen].any(), name
        assert got[name][~unseen].all(), name


@pytest.mark.parametrize("batch, queries, keys", [(2, 0, 5), (2, 5, 0), (0, 5, 5), (2, 0, 0)])
def test_nothing_to_do(batch, queries, keys):
    table = torch.zeros(1, queries, dtype=torch.long)
    case = Case(torch.float32, on_device(KeyRanges(table, table, keys)), batch)
    for name, result in case.run(lorra_attention).items():
        assert not result.any(), name


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_key(dtype, queries):
    key_ranges = on_device(KeyRanges(torch.zeros(1, queries), torch.ones(1, queries), 1))
    got = Case(dtype, key_ranges).check()
    # It has all the weight, for any score.
    for name in ("x", "t", "b_q"):
        assert got[name].abs().max() < 1e-4, name


def test_what_all_values_share_costs_no_digits():
    case = Case(torch.float16, on_device(KeyRanges.causal(60, 60)), heads=1, width=32)
    case.tensors[2] += 10 * torch.randn(32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    case.tensors[2] = case.tensors[2].half().double()
    exact, plain = case.run(definition, torch.float64), case.run(definition)
    got = case.run(lorra_attention)
    for name in ("x", "t", "b_q", "source", "c_k"):
        error, budget = ((y[name] - exact[name]).norm() for y in (got, plain))
        assert error < 0.6 * budget, name


def test_a_key_with_nearly_all_the_weight_costs_no_digits():
    """Its dP and delta, both large, must cancel: what is left is small for every key."""
    sees_all = KeyRanges(torch.zeros(1, 60), torch.full((1, 60), 60), 60)
    case = Case(torch.float16, on_device(sees_all), heads=1, width=32)
    still = torch.ones(1, 60, 16, device=DEVICE)
    case.rope_q = case.rope_k = (still, still * 0)
    case.tensors[0] += 2
    case.tensors[2][:, 7] = 1.5
    exact, got = case.run(definition, torch.float64), case.run(lorra_attention)
    for name in ("x", "t", "source", "c_k"):
        assert (got[name] - exact[name]).norm() < 5e-3 * exact[name].norm(), name


def test_ranges_that_cut_the_first_and_the_last_block(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    table = torch.arange(64)[None]
    sees = (table >= 5) & (table < 59)
    Case(torch.float32, on_device(KeyRanges(sees * 5, sees * 59, 64))).check()


def test_few_keys_are_in_smaller_blocks(monkeypatch):
    """As on a GPU that the tokens of one image would not fill."""
    use_blocks(monkeypatch, 16, 128)
    monkeypatch.setattr(tuning, "enough_programs", lambda device: 264)
    key_ranges = on_device(KeyRanges.causal(70, 150))
    Case(torch.float32, key_ranges).check()
    assert set(key_ranges._spans) == {(16, 128), (16, 64)}


def test_strides_do_not_matter(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    case = Case(torch.float32, on_device(KeyRanges.causal(20, 20)))
    wanted = case.run(lorra_attention)

    def strided(x, t, source, c_k, c_v, b_q, b_k, b_v, a_o, *rest):
        both = torch.cat([c_k, c_v], dim=-1)
        c_k, c_v = both.split(c_k.shape[-1], dim=-1)
        x, source = x.mT.contiguous().mT, source.transpose(0, 1).contiguous().transpose(0, 1)
        t = torch.stack([t, t], dim=2)[:, :, 0]
        return lorra_attention(
            x, t, source, c_k, c_v, b_q, b_k.mT.contiguous().mT, b_v, a_o.mT.contiguous().mT, *rest
        )

    for name, result in case.run(strided).items():
        # Autograd adds a zero to tensors that were given twice; the kernels read the same numbers.
        assert torch.equal(result, wanted[name]), name


def test_all_eight_factors(monkeypatch):
    """Through the products around the kernel: a learner's x, source and factors, with a b_o."""
    use_blocks(monkeypatch, 16, 16)
    generator = torch.Generator().manual_seed(3)
    B, T, S, D, r, heads = 2, 21, 35, 48, 6, 3
    shapes = {"x": (B, T, D), "source": (B, S, D)}
    shapes |= {f"a_{part}": (D, r) for part in "qkvo"} | {f"b_{part}": (r, D) for part in "qkvo"}
    values = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)
        * (1.0 if len(shape) == 3 else shape[0] ** -0.5)
        for name, shape in shapes.items()
    }
    key_ranges = random_key_ranges("left", 3, B, T, S)
    case = Case(torch.float32, key_ranges, B, heads, D // heads, r)
    d_out = torch.randn(B, T, D, generator=generator, dtype=torch.float64).to(DEVICE)

    def gradients(operation, dtype):
        given = {name: value.to(dtype).requires_grad_() for name, value in values.items()}
        x, source = given["x"], given["source"]
        low = operation(
            x, x @ given["a_q"], source, source @ given["a_k"], source @ given["a_v"], given["b_q"],
            given["b_k"], given["b_v"], given["a_o"],
            heads, case.rope_q, case.rope_k, key_ranges,
        )  # fmt: skip
        found = torch.autograd.grad(low @ given["b_o"], list(given.values()), d_out.to(dtype))
        return {name: grad.double() for name, grad in zip(given, found, strict=True)}

    exact = gradients(definition, torch.float64)
    for name, gradient in gradients(lorra_attention, torch.float32).items():
        assert (gradient - exact[name]).norm() < 2e-6 * exact[name].norm(), name


def test_same_bits_every_time_and_for_any_share_of_heads(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    case = Case(torch.float32, random_key_ranges("left", 8, 2, 30, 30), heads=3)
    monkeypatch.setattr(forward_file, "TARGET_PROGRAMS", 1000)
    apart, again = case.run(lorra_attention), case.run(lorra_attention)
    monkeypatch.setattr(forward_file, "TARGET_PROGRAMS", 8)
    summed = case.run(lorra_attention)
    for name, result in apart.items():
        assert torch.equal(result, again[name]), name
        assert (result - summed[name]).norm() <= 1e-6 * result.norm(), name


@pytest.mark.parametrize("heads", [1, 2, 7, 9, 32])
@pytest.mark.parametrize("blocks", [1, 16, 20, 64, 1000])
def test_every_head_is_in_one_group(heads, blocks):
    groups, heads_per_program = forward_file.group_heads(heads, blocks)
    assert (groups - 1) * heads_per_program < heads <= groups * heads_per_program
    assert heads_per_program == 1 or groups * blocks >= forward_file.TARGET_PROGRAMS // 2


def test_autocast_changes_nothing():
    case = Case(torch.float32, on_device(KeyRanges.causal(9, 9)))
    wanted = case.run(lorra_attention)
    with torch.autocast(DEVICE, torch.bfloat16):
        got = case.run(lorra_attention)
    for name, result in got.items():
        assert torch.equal(result, wanted[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads, width", [(32, 128), (9, 64), (8, 256), (5, 80)])
@pytest.mark.parametrize("queries, keys", [(1000, 729), (777, 777), (64, 1500)])
def test_real_shapes(dtype, heads, width, queries, keys):
    seed = heads * queries
    for layout in LAYOUTS:
        key_ranges = random_key_ranges(layout, seed, 2, queries, keys)
        Case(dtype, key_ranges, 2, heads, width, rank=64, seed=seed).check()
