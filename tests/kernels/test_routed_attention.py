"""Routed attention's kernels against the definition in float64, and what they take on a GPU."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wings.kernels import routed_attention as forward_file
from wings.kernels import routed_attention_backward as backward_file
from wings.kernels.routed_attention import routed_attention
from wings.kernels.runs import Runs
from wings.kernels.tuning import Blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("out", "sums", "dq", "dk", "dv", "dcolumns")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def definition(q, k, v, columns, sees, scale):
    """The formula, in the arguments' dtype; sees `[B or 1, T, S]`."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.mT * scale).masked_fill(~sees[:, None], float("-inf"))
    weights = scores.softmax(-1).masked_fill(~sees[:, None], 0.0)
    sums = weights @ columns[:, None].to(q.dtype)
    return (weights @ v).transpose(1, 2), sums.mean(1)


def arguments(shape, dtype, seed=0, width=16, value_width=None, columns=2, spread=1.0):
    """q, k, v as transposed views, columns in fp32; shape is B, H, G, T, S."""
    B, H, G, T, S = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes, kind=dtype):
        return torch.randn(*sizes, generator=generator).to(DEVICE, kind)

    q = draw(B, T, H, width) * spread
    k = draw(B, S, G, width) * spread
    v = draw(B, S, G, value_width or width)
    inputs = [
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        draw(B, S, columns, kind=torch.float32),
    ]
    return [x.detach().requires_grad_() for x in inputs]


def all_results(operation, inputs, weights):
    """Output and sums, then the four gradients under random weights of both."""
    results = operation(*inputs)
    wanted = [weight.to(result.dtype) for weight, result in zip(weights, results, strict=True)]
    return [x.detach().double() for x in (*results, *torch.autograd.grad(results, inputs, wanted))]


def distance(got, exact):
    # Where the exact gradient is all but 0 (one key takes all the weight whatever its score), what
    # is left is the rounding of terms of the inputs' size, which is 1.
    return float((got - exact).norm() / max(exact.norm(), 0.02 * exact.numel() ** 0.5))


def compare(inputs, runs, scale, seed=1):
    """The budget: twice what the definition loses in the same dtype, and a few units of it."""
    dtype, device = inputs[0].dtype, inputs[0].device
    generator = torch.Generator().manual_seed(seed)
    B, H, T, _ = inputs[0].shape
    weights = [
        torch.randn(B, T, H, inputs[2].shape[-1], generator=generator).to(device, dtype),
        torch.randn(B, T, inputs[3].shape[-1], generator=generator).to(device, torch.float32),
    ]
    sees = runs.sees()
    exact = all_results(
        lambda *x: definition(*x, sees, scale),
        [x.detach().double().requires_grad_() for x in inputs],
        [weight.double() for weight in weights],
    )
    plain = all_results(lambda *x: definition(*x, sees, scale), inputs, weights)
    got = all_results(lambda *x: routed_attention(*x, runs, scale), inputs, weights)
    for name, a, b, c in zip(NAMES, got, plain, exact, strict=True):
        assert a.shape == c.shape, name
        assert a.isfinite().all(), name
        budget = 2 * distance(b, c) + 4 * torch.finfo(dtype).eps
        assert distance(a, c) <= budget, f"{name}: {distance(a, c):.2e} against {budget:.2e}"
    return dict(zip(NAMES, got, strict=True))


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that is handed out holds NaN: whoever forgets to write a place is found out."""
    empty = torch.empty

    def with_nan(*sizes, **options):
        made = empty(*sizes, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", with_nan)


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks, so that small shapes have many of them."""

    def use(queries, keys):
        def small(*_):
            return Blocks(queries, keys, 4, 1)

        monkeypatch.setattr(forward_file, "blocks_for", small)
        monkeypatch.setattr(backward_file, "blocks_for", small)

    return use


def random_runs(seed, rows, queries, keys):
    """Causal, windowed, packed, padded or any runs."""
    draw = random.Random(seed)
    kind = draw.choice(["causal", "window", "packed", "left", "right", "any", "sorted", "blind"])
    if kind in ("causal", "window"):
        runs = Runs.causal(queries, keys, draw.randint(1, 20) if kind == "window" else None)
        return Runs(runs.first.to(DEVICE), runs.end.to(DEVICE), keys)
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(queries).repeat(rows, 1) + max(0, keys - queries)
    first, end = torch.zeros_like(place), (place + 1).clamp(max=keys)
    real = torch.randint(0, queries + 1, (rows, 1), generator=generator)
    blind = torch.zeros_like(place, dtype=torch.bool)
    if kind == "packed":
        first = (place // draw.randint(1, 17)) * draw.randint(1, 17)
    elif kind == "left":
        blind, first = torch.arange(queries) < real, real.expand_as(place)
    elif kind == "right":
        blind = torch.arange(queries) >= real
    elif kind in ("any", "sorted"):
        first, end = torch.randint(0, keys + 1, (2, rows, queries), generator=generator)
        if kind == "sorted":
            first, end = first.sort(1).values, end.sort(1).values
    elif kind == "blind":
        end = first
    first, end = first.clamp(max=keys).masked_fill(blind, 0), end.masked_fill(blind, 0)
    return Runs(first.to(DEVICE), torch.maximum(first, end).to(DEVICE), keys)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1_000_000))
def test_any_layout_and_shape(seed):
    draw = random.Random(seed)
    rows, group, key_heads = draw.randint(1, 2), draw.choice([1, 2, 3]), draw.randint(1, 2)
    queries, keys = draw.randint(1, 50), draw.randint(1, 50)
    with pytest.MonkeyPatch.context() as patch:
        size = Blocks(draw.choice([16, 32]), draw.choice([16, 32]), 4, 1)
        patch.setattr(forward_file, "blocks_for", lambda *_: size)
        patch.setattr(backward_file, "blocks_for", lambda *_: size)
        parts = draw.choice([n for n in (1, 2, 3) if group % n == 0])
        patch.setattr(backward_file, "parts_of_group", lambda *_: parts)
        empty = torch.empty
        patch.setattr(torch, "empty", lambda *a, **b: empty(*a, **b).fill_(float("nan")))
        inputs = arguments(
            (rows, group * key_heads, key_heads, queries, keys),
            draw.choice(DTYPES),
            seed,
            width=draw.choice([4, 16, 24]),
            value_width=draw.choice([8, 16, 20]),
            columns=draw.choice([1, 2, 3, 17]),
        )
        compare(inputs, random_runs(seed, rows, queries, keys), draw.choice([0.1, 0.25, 1.0]))
