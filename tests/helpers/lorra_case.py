"""LoRRA attention in the tests: its definition, and random calls of it to compare."""

import random

import torch
from rounding import budget, random_losses

from wings.kernels import visits as visits_file
from wings.kernels.key_ranges import KeyRanges
from wings.kernels.lorra_attention import backward as backward_file
from wings.kernels.lorra_attention import forward as forward_file
from wings.kernels.lorra_attention import rope as rows_file
from wings.kernels.lorra_attention.forward import lorra_attention
from wings.kernels.tuning import Blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("x", "t", "source", "c_k", "c_v", "b_q", "b_k", "b_v", "a_o")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = ["causal", "window", "packed", "left", "right", "image", "any", "blind"]


def definition(x, t, source, c_k, c_v, b_q, b_k, b_v, a_o, heads, rope_q, rope_k, key_ranges):
    """The definition of LoRRA attention, in the dtype of the arguments."""

    def split(rows):
        return rows.unflatten(-1, (heads, -1)).transpose(1, 2)

    def rope(rows, rope_tables):
        cos, sin = (table.to(rows.dtype)[:, None] for table in rope_tables)
        first, second = rows.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    q, k = rope(split(x + t @ b_q), rope_q), rope(split(source + c_k @ b_k), rope_k)
    v = split(source + c_v @ b_v)
    sees = key_ranges.mask()[:, None]
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~sees, float("-inf"))
    weights = scores.softmax(-1).masked_fill(~sees, 0.0)
    return (weights @ v).transpose(1, 2).flatten(2) @ a_o


class Case:
    """Random arguments of one call, in float64, rounded to what `dtype` can hold."""

    def __init__(
        self, dtype, key_ranges, batch=2, heads=2, width=16, rank=16, seed=0, shared=False
    ):
        generator = torch.Generator().manual_seed(seed)
        self.dtype, self.heads, self.key_ranges = dtype, heads, key_ranges
        T, S, D = key_ranges.queries, key_ranges.count, heads * width

        def draw(*sizes, std=1.0):
            values = torch.randn(*sizes, generator=generator, dtype=torch.float64) * std
            return values.to(DEVICE, dtype).double()

        def rope_tables(count):
            angle = torch.randn(1 if shared else batch, count, width // 2, generator=generator) * 3
            return angle.cos().to(DEVICE), angle.sin().to(DEVICE)

        self.tensors = [draw(batch, T, D), draw(batch, T, rank), draw(batch, S, D)]
        self.tensors += [draw(batch, S, rank), draw(batch, S, rank)]
        self.tensors += [draw(rank, D, std=0.5 * rank**-0.5) for _ in range(3)]
        self.tensors += [draw(D, rank, std=D**-0.5)]
        self.rope_q, self.rope_k = rope_tables(T), rope_tables(S)
        self.d_out = draw(batch, T, rank)

    def run(self, operation, dtype=None):
        """Output and gradients by name, in float64."""
        dtype = dtype or self.dtype
        inputs = [tensor.to(dtype).requires_grad_() for tensor in self.tensors]
        out = operation(*inputs, self.heads, self.rope_q, self.rope_k, self.key_ranges)
        gradients = torch.autograd.grad(out, inputs, self.d_out.to(dtype))
        results = dict(zip(NAMES, gradients, strict=True), out=out.detach())
        for name, tensor in zip(NAMES, inputs, strict=True):
            assert results[name].shape == tensor.shape, name
        return {name: result.double() for name, result in results.items()}

    def check(self, operation=lorra_attention):
        """Runs the operation and checks its results against the budgets of `rounding.py`."""
        exact, got = self.run(definition, torch.float64), self.run(operation)
        losses = random_losses(
            lambda: self.run(definition, torch.float64), exact, self.dtype
        )  # fmt: skip
        for name, result in got.items():
            assert result.isfinite().all(), name
            error = (result - exact[name]).norm()
            # If one key has all the weight, the exact gradient is 0. Then the fp32 sums of terms of
            # size 1 leave a rounding error.
            limit = budget(losses[name], exact[name], self.dtype) + 2e-6 * result.numel() ** 0.5
            assert error <= limit, f"{name}: {error:.2e} against {limit:.2e}"
        return got


def use_blocks(patch, queries, keys):
    """Small blocks, so that small shapes have many of them."""
    for file in (forward_file, backward_file, rows_file, visits_file):
        patch.setattr(file, "blocks_for", lambda *_: Blocks(queries, keys, 4, 1))


def on_device(key_ranges):
    return KeyRanges(key_ranges.first.to(DEVICE), key_ranges.end.to(DEVICE), key_ranges.count)


def random_key_ranges(kind, seed, rows, queries, keys):
    """Random ranges of one of `LAYOUTS`; the last row sees everything."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    place = torch.arange(queries).repeat(rows, 1) + max(0, keys - queries)
    first, end = torch.zeros_like(place), place + 1
    border = torch.randint(0, queries + 1, (rows, 1), generator=generator)
    hidden = torch.zeros_like(place, dtype=torch.bool)
    if kind == "window":
        first = place - draw.randint(0, 20)
    elif kind == "packed":
        first = place // (size := draw.randint(1, 17)) * size
    elif kind in ("left", "right"):
        hidden = torch.arange(queries) < border
        hidden = hidden if kind == "left" else ~hidden
    elif kind == "image":
        end = (torch.arange(queries) >= border) * torch.randint(
            keys + 1, (rows, 1), generator=generator
        )
    elif kind == "any":
        first, end = torch.randint(0, keys + 1, (2, rows, queries), generator=generator)
    elif kind == "blind":
        hidden[:] = True
    first = first.clamp(min=0, max=keys).masked_fill(hidden, 0)
    end = torch.maximum(first, end.clamp(max=keys).masked_fill(hidden, 0))
    first[-1], end[-1] = 0, keys
    return on_device(KeyRanges(first, end, keys))
