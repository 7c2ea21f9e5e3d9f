"""Routed attention's definition in float64, its inputs, and the comparison with a kernel."""

import random
from contextlib import contextmanager

import pytest
import torch
from rounding import budget, random_losses

from wings.kernels import visits as visits_file
from wings.kernels.key_ranges import KeyRanges
from wings.kernels.routed_attention import backward as backward_file
from wings.kernels.routed_attention import forward as forward_file
from wings.kernels.routed_attention.forward import routed_attention
from wings.kernels.tuning import Blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("out", "sums", "dq", "dk", "dv", "dcolumns")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = ["causal", "window", "packed", "left", "right", "any", "sorted", "blind"]


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


def cancelled(q, k, v, columns, sees, scale):
    """Rounding errors of gradients of the scores that should cancel, in units of the dtype.

    The one key of a query takes all weight whatever its score, so that q's gradient is exactly 0;
    what is computed is the difference of two equal products of v and the output's gradient.
    """
    mean_key = definition(q, k, k, columns, sees, scale)[0]
    return float(mean_key.norm()) * scale * (v.shape[-1] + columns.shape[-1]) ** 0.5


def compare(inputs, key_ranges, scale, seed=1, operation=routed_attention):
    """Runs the operation and checks its results against the budgets of `rounding.py`.

    delta is made of the output as it was stored, rounded, and the definition never rounds it so:
    gradients of q and k may err by what `cancelled` says on top.
    """
    dtype, device = inputs[0].dtype, inputs[0].device
    generator = torch.Generator().manual_seed(seed)
    B, H, T, _ = inputs[0].shape
    weights = [
        torch.randn(B, T, H, inputs[2].shape[-1], generator=generator).to(device, dtype),
        torch.randn(B, T, inputs[3].shape[-1], generator=generator).to(device, torch.float32),
    ]
    sees = key_ranges.mask()
    wide = [x.detach().double().requires_grad_() for x in inputs]
    wide_weights = [weight.double() for weight in weights]

    def in_float64():
        found = all_results(lambda *x: definition(*x, sees, scale), wide, wide_weights)
        return dict(zip(NAMES, found, strict=True))

    exact = in_float64()
    losses = random_losses(in_float64, exact, dtype)
    got = all_results(lambda *x: operation(*x, key_ranges, scale), inputs, weights)
    got = dict(zip(NAMES, got, strict=True))
    rounding = torch.finfo(dtype).eps * cancelled(*[x.detach() for x in wide], sees, scale)
    for name, result in got.items():
        assert result.shape == exact[name].shape, name
        assert result.isfinite().all(), name
        limit = budget(losses[name], exact[name], dtype) + (rounding if name in ("dq", "dk") else 0)
        error = float((result - exact[name]).norm())
        assert error <= limit, f"{name}: {error:.2e} against {limit:.2e}"
    return got


@contextmanager
def poisoned_memory():
    """New memory holds NaN, so that a kernel that leaves a place unwritten fails."""
    empty = torch.empty

    def poisoned(*sizes, **options):
        made = empty(*sizes, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 2**30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        yield


@contextmanager
def setting(queries=16, keys=16, parts=1):
    """Small blocks, so that small shapes have many; and new memory holds NaN, not zeros."""
    with pytest.MonkeyPatch.context() as patch, poisoned_memory():
        for file in (forward_file, backward_file, visits_file):
            patch.setattr(file, "blocks_for", lambda *_: Blocks(queries, keys, 4, 1))
        patch.setattr(backward_file, "splits_of_group", lambda *_: parts)
        yield


def make_key_ranges(first, end, keys):
    return KeyRanges(torch.tensor(first, device=DEVICE), torch.tensor(end, device=DEVICE), keys)


def compare_to_wide(inputs, key_ranges, scale):
    """Against the definition in float64 where fp16's own version overflows; returns the results."""
    exact = definition(*[x.detach().double() for x in inputs], key_ranges.mask(), scale)
    out, sums = routed_attention(*inputs, key_ranges, scale)
    for name, a, b in zip(NAMES, (out, sums), exact, strict=False):
        assert float((a.detach().double() - b).norm() / b.norm()) < 2e-3, name
    grads = torch.autograd.grad([out.float().sum() + sums.sum()], inputs)
    return [out, sums, *grads]


def random_key_ranges(kind, seed, rows, queries, keys):
    """Random ranges of one of `LAYOUTS`."""
    draw = random.Random(seed)
    if kind in ("causal", "window"):
        key_ranges = KeyRanges.causal(
            queries, keys, draw.randint(1, 45) if kind == "window" else None
        )
        return KeyRanges(key_ranges.first.to(DEVICE), key_ranges.end.to(DEVICE), keys)
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
    return KeyRanges(first.to(DEVICE), torch.maximum(first, end).to(DEVICE), keys)
