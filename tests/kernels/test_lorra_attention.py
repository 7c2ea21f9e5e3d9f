"""LoRRA attention's kernels against the definition in float64, and what they take on a GPU."""

import random

import pytest
import torch
from compiled import SHARED_LIMIT, Job, report
from hypothesis import given, settings
from hypothesis import strategies as st

from wings.kernels import lorra_attention as forward_file
from wings.kernels import lorra_attention_backward as backward_file
from wings.kernels import turned_rows as rows_file
from wings.kernels.lorra_attention import lorra_attention
from wings.kernels.runs import Runs
from wings.kernels.tiles import padded_width
from wings.kernels.tuning import TABLE, Blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("x", "t", "source", "c_k", "c_v", "b_q", "b_k", "b_v", "a_o")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def definition(x, t, source, c_k, c_v, b_q, b_k, b_v, a_o, heads, turn_q, turn_k, runs):
    """What the kernels compute, written out, in the arguments' dtype."""

    def split(rows):
        return rows.unflatten(-1, (heads, -1)).transpose(1, 2)

    def rope(rows, turn):
        cos, sin = (table.to(rows.dtype)[:, None] for table in turn)
        first, second = rows.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    q, k = rope(split(x + t @ b_q), turn_q), rope(split(source + c_k @ b_k), turn_k)
    v = split(source + c_v @ b_v)
    sees = runs.sees()[:, None]
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~sees, float("-inf"))
    weights = scores.softmax(-1).masked_fill(~sees, 0.0)
    return (weights @ v).transpose(1, 2).flatten(2) @ a_o


class Case:
    """Random arguments of one call, in float64, rounded to what `dtype` can hold."""

    def __init__(self, dtype, runs, batch=2, heads=2, width=16, rank=16, seed=0, shared=False):
        generator = torch.Generator().manual_seed(seed)
        self.dtype, self.heads, self.runs = dtype, heads, runs
        T, S, D = runs.queries, runs.keys, heads * width

        def draw(*sizes, std=1.0):
            values = torch.randn(*sizes, generator=generator, dtype=torch.float64) * std
            return values.to(DEVICE, dtype).double()

        def turn(count):
            angle = torch.randn(1 if shared else batch, count, width // 2, generator=generator) * 3
            return angle.cos().to(DEVICE), angle.sin().to(DEVICE)

        self.tensors = [draw(batch, T, D), draw(batch, T, rank), draw(batch, S, D)]
        self.tensors += [draw(batch, S, rank), draw(batch, S, rank)]
        self.tensors += [draw(rank, D, std=0.5 * rank**-0.5) for _ in range(3)]
        self.tensors += [draw(D, rank, std=D**-0.5)]
        self.turn_q, self.turn_k = turn(T), turn(S)
        self.d_out = draw(batch, T, rank)

    def run(self, operation, dtype=None):
        """Output and gradients by name, in float64."""
        dtype = dtype or self.dtype
        inputs = [tensor.to(dtype).requires_grad_() for tensor in self.tensors]
        out = operation(*inputs, self.heads, self.turn_q, self.turn_k, self.runs)
        gradients = torch.autograd.grad(out, inputs, self.d_out.to(dtype))
        results = dict(zip(NAMES, gradients, strict=True), out=out.detach())
        for name, tensor in zip(NAMES, inputs, strict=True):
            assert results[name].shape == tensor.shape, name
        return {name: result.double() for name, result in results.items()}

    def check(self):
        """The budget: twice what the definition loses in the same dtype, and a few units of it."""
        exact, plain = self.run(definition, torch.float64), self.run(definition)
        got = self.run(lorra_attention)
        for name, result in got.items():
            assert result.isfinite().all(), name
            error, lost = ((y - exact[name]).norm() for y in (result, plain[name]))
            # Where the exact gradient is 0 (one key takes all the weight whatever its score) the
            # sums in fp32 leave some digits of terms whose size is about 1.
            left = 2e-6 * result.numel() ** 0.5
            budget = 2 * lost + 3 * torch.finfo(self.dtype).eps * exact[name].norm() + left
            assert error <= budget, f"{name}: {error:.2e} against {budget:.2e}"
        return got


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that is handed out holds NaN: whoever forgets to write a place is found out."""
    empty = torch.empty

    def with_nan(*sizes, **options):
        made = empty(*sizes, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 2**30)

    monkeypatch.setattr(torch, "empty", with_nan)


def use_blocks(patch, queries, keys):
    """Small blocks, so that small shapes have many of them."""
    for file in (forward_file, backward_file, rows_file):
        patch.setattr(file, "blocks_for", lambda *_: Blocks(queries, keys, 4, 1))


def on_device(runs):
    return Runs(runs.first.to(DEVICE), runs.end.to(DEVICE), runs.keys)


def random_runs(seed, rows, queries, keys):
    """Causal, windowed, packed, padded, picture-like or any runs; the last row sees everything."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    kind = draw.choice(["causal", "window", "packed", "left", "right", "picture", "any", "blind"])
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
    elif kind == "picture":
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
    return on_device(Runs(first, end, keys))


@settings(max_examples=14, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1_000_000))
def test_any_layout_and_shape(seed):
    draw = random.Random(seed)
    rows, queries, keys = draw.randint(1, 3), draw.randint(1, 40), draw.randint(1, 40)
    with pytest.MonkeyPatch.context() as patch:
        use_blocks(patch, draw.choice([16, 32]), draw.choice([16, 32]))
        patch.setattr(forward_file, "PROGRAMS", draw.choice([1, 8, 1000]))
        runs = random_runs(seed, rows, queries, keys)
        Case(
            draw.choice(DTYPES), runs, rows, heads=draw.randint(1, 3),
            width=draw.choice([16, 20, 24]), rank=draw.choice([1, 3, 16, 20]), seed=seed,
            shared=draw.random() < 0.5,
        ).check()  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width, rank", [(16, 1), (80, 5), (128, 64), (256, 4), (32, 128)])
def test_any_width_and_rank(dtype, width, rank):
    runs = on_device(Runs.causal(33, 40))
    Case(dtype, runs, batch=1, heads=2 if width < 256 else 1, width=width, rank=rank).check()


def test_one_row_of_runs_and_turns_serves_all_rows(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    Case(torch.float32, on_device(Runs.causal(30, 37, window=9)), batch=3, shared=True).check()


def test_queries_and_keys_that_nothing_meets_are_exactly_zero(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    first, end = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 40, dtype=torch.long)
    first[0, 5:9], end[0, 5:9] = 3, 20
    first[0, 30:], end[0, 30:] = 17, 25
    got = Case(torch.float16, on_device(Runs(first, end, 50))).check()
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
    case = Case(torch.float32, on_device(Runs(table, table, keys)), batch)
    for name, result in case.run(lorra_attention).items():
        assert not result.any(), name


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_key(dtype, queries):
    runs = on_device(Runs(torch.zeros(1, queries), torch.ones(1, queries), 1))
    got = Case(dtype, runs).check()
    # All the weight is on it, whatever the scores.
    for name in ("x", "t", "b_q"):
        assert got[name].abs().max() < 1e-4, name


def test_what_all_values_share_costs_no_digits():
    case = Case(torch.float16, on_device(Runs.causal(60, 60)), heads=1, width=32)
    case.tensors[2] += 10 * torch.randn(32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    case.tensors[2] = case.tensors[2].half().double()
    exact, plain = case.run(definition, torch.float64), case.run(definition)
    got = case.run(lorra_attention)
    for name in ("x", "t", "b_q", "source", "c_k"):
        error, budget = ((y[name] - exact[name]).norm() for y in (got, plain))
        assert error < 0.6 * budget, name


def test_a_key_with_nearly_all_the_weight_costs_no_digits():
    """Its dP and delta, both large, must cancel: what is left is small for every key."""
    sees_all = Runs(torch.zeros(1, 60), torch.full((1, 60), 60), 60)
    case = Case(torch.float16, on_device(sees_all), heads=1, width=32)
    still = torch.ones(1, 60, 16, device=DEVICE)
    case.turn_q = case.turn_k = (still, still * 0)
    case.tensors[0] += 2
    case.tensors[2][:, 7] = 1.5
    exact, got = case.run(definition, torch.float64), case.run(lorra_attention)
    for name in ("x", "t", "source", "c_k"):
        assert (got[name] - exact[name]).norm() < 5e-3 * exact[name].norm(), name


def test_runs_that_cut_the_first_and_the_last_block(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    table = torch.arange(64)[None]
    sees = (table >= 5) & (table < 59)
    Case(torch.float32, on_device(Runs(sees * 5, sees * 59, 64))).check()


def test_rows_may_lie_anywhere(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    case = Case(torch.float32, on_device(Runs.causal(20, 20)))
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
        # Autograd adds a zero to what was given twice; the kernels read the same numbers.
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
    runs = random_runs(3, B, T, S)
    case = Case(torch.float32, runs, B, heads, D // heads, r)
    d_out = torch.randn(B, T, D, generator=generator, dtype=torch.float64).to(DEVICE)

    def gradients(operation, dtype):
        given = {name: value.to(dtype).requires_grad_() for name, value in values.items()}
        x, source = given["x"], given["source"]
        low = operation(
            x, x @ given["a_q"], source, source @ given["a_k"], source @ given["a_v"], given["b_q"],
            given["b_k"], given["b_v"], given["a_o"],
            heads, case.turn_q, case.turn_k, runs,
        )  # fmt: skip
        found = torch.autograd.grad(low @ given["b_o"], list(given.values()), d_out.to(dtype))
        return {name: grad.double() for name, grad in zip(given, found, strict=True)}

    exact = gradients(definition, torch.float64)
    for name, gradient in gradients(lorra_attention, torch.float32).items():
        assert (gradient - exact[name]).norm() < 2e-6 * exact[name].norm(), name


def test_same_bits_every_time_and_for_any_share_of_heads(monkeypatch):
    use_blocks(monkeypatch, 16, 16)
    case = Case(torch.float32, random_runs(8, 2, 30, 30), heads=3)
    monkeypatch.setattr(forward_file, "PROGRAMS", 1000)
    apart, again = case.run(lorra_attention), case.run(lorra_attention)
    monkeypatch.setattr(forward_file, "PROGRAMS", 8)
    together = case.run(lorra_attention)
    for name, result in apart.items():
        assert torch.equal(result, again[name]), name
        assert (result - together[name]).norm() <= 1e-6 * result.norm(), name


@pytest.mark.parametrize("heads", [1, 2, 7, 9, 32])
@pytest.mark.parametrize("blocks", [1, 16, 20, 64, 1000])
def test_every_head_is_in_one_group(heads, blocks):
    groups, together = forward_file.share_heads(heads, blocks)
    assert (groups - 1) * together < heads <= groups * together
    assert together == 1 or groups * blocks >= forward_file.PROGRAMS // 2


def test_autocast_changes_nothing():
    case = Case(torch.float32, on_device(Runs.causal(9, 9)))
    wanted = case.run(lorra_attention)
    with torch.autocast(DEVICE, torch.bfloat16):
        got = case.run(lorra_attention)
    for name, result in got.items():
        assert torch.equal(result, wanted[name]), name


def test_what_does_not_fit_is_refused_with_names_and_sizes(monkeypatch):
    def launch(*_):
        raise AssertionError("launched")

    monkeypatch.setattr(forward_file.LorraAttention, "apply", launch)
    runs = on_device(Runs.causal(5, 7))
    good = dict(zip(NAMES, (x.float() for x in Case(torch.float32, runs).tensors), strict=True))
    turns = Case(torch.float32, runs)
    good |= {"heads": 2, "turn_q": turns.turn_q, "turn_k": turns.turn_k, "runs": runs}
    with pytest.raises(AssertionError, match="launched"):
        lorra_attention(**good)
    zeros = torch.zeros
    bad = [
        ({"x": zeros(2, 5)}, "x has 2 dimensions"),
        ({"heads": 3}, "3 heads do not divide x's width 32"),
        ({"heads": 4}, "heads are 8 wide"),
        ({"t": zeros(2, 5, 200)}, "t has rank 200"),
        ({"t": zeros(2, 6, 16)}, r"t is \[2, 6, 16\].*\[2, 5, 16\]"),
        ({"source": zeros(2, 7, 30)}, r"source is \[2, 7, 30\].*\[2, 7, 32\]"),
        ({"c_k": zeros(2, 8, 16)}, r"c_k is \[2, 8, 16\].*\[2, 7, 16\]"),
        ({"c_v": zeros(2, 7, 15)}, r"c_v is \[2, 7, 15\].*\[2, 7, 16\]"),
        ({"b_k": zeros(32, 16)}, r"b_k is \[32, 16\].*\[16, 32\]"),
        ({"a_o": zeros(16, 32)}, r"a_o is \[16, 32\].*\[32, 16\]"),
        ({"turn_q": turns.turn_k}, r"cos_q is \[2, 7, 8\].*\[2, 5, 8\]"),
        ({"turn_k": (turns.turn_k[0], zeros(3, 7, 8))}, r"sin_k is \[3, 7, 8\]"),
        ({"b_v": good["b_v"].half()}, "b_v is torch.float16 and x is torch.float32"),
        ({"turn_q": [table.half() for table in turns.turn_q]}, "cos_q is torch.float16"),
        ({name: good[name].double() for name in NAMES}, "x is torch.float64"),
        ({"runs": Runs.causal(6, 7)}, r"\[1, 6\].*5 queries"),
        ({"runs": Runs.causal(5, 8)}, "8 keys.*7 keys"),
        ({"runs": Runs(runs.first.expand(3, -1), runs.end.expand(3, -1), 7)}, "runs have 3 rows"),
        ({"a_o": good["a_o"].to("meta")}, "a_o is on meta"),
    ]
    for wrong, message in bad:
        with pytest.raises(ValueError, match=message):
            lorra_attention(**{**good, **wrong})


def job(kernel, width, rank, target, blocks, dtype="bf16"):
    """One kernel as it is launched for heads of `width` on a card of capability `target`."""
    file = forward_file if kernel == "forward_kernel" else backward_file
    half = width // 2
    constants = {
        "HALF": half, "HB": padded_width(half), "RANK": rank, "RB": padded_width(rank),
        "BM": blocks.queries, "BN": blocks.keys,
    }  # fmt: skip
    single = ("p_cos", "p_sin", "p_lse", "p_out")
    whole = ("p_first", "p_end", "p_spans", "p_facts")
    signature = {}
    for name in getattr(file, kernel).arg_names:
        if name.startswith("p_"):
            kind = "fp32" if name in single else "i32" if name in whole else dtype
            signature[name] = f"*{kind}"
        elif name not in constants:
            signature[name] = "fp32" if name in ("scale", "factor") else "i32"
    divisible = [n for n in signature if n.startswith("stride_") and n[7:] not in ("run", "spans")]
    return Job(
        f"wings.kernels.{file.__name__.rpartition('.')[2]}", kernel, signature, constants,
        target, blocks.warps, blocks.stages, tuple(divisible),
    )  # fmt: skip


def test_kernels_fit_the_cards():
    kernels = {
        "lorra_attention": "forward_kernel",
        "lorra_attention_queries": "queries_kernel",
        "lorra_attention_keys": "keys_kernel",
    }
    jobs = []
    for width, target in ((64, 90), (128, 90), (128, 80)):
        for name, kernel in kernels.items():
            blocks = next(
                blocks for of, card, widest, size, blocks in TABLE
                if of == name and card == target // 10 and width <= widest and size >= 2
            )  # fmt: skip
            jobs.append(job(kernel, width, 64, target, blocks))
    for each, found in zip(jobs, report(*jobs), strict=True):
        print(each.kernel, each.constants["HALF"] * 2, each.target, found)
        # Cards whose capability starts with 8 share blocks, and most have less than an A100.
        limit = min(SHARED_LIMIT[each.target], 99 * 1024 if each.target == 80 else 2**30)
        assert found.shared <= limit, each.kernel
        # What spills is in the making of turned queries, once per head; the loops have (almost)
        # none, which a look at the machine code shows.
        assert found.spilled <= 320, each.kernel


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads, width", [(32, 128), (9, 64), (8, 256), (5, 80)])
@pytest.mark.parametrize("queries, keys", [(1000, 729), (777, 777), (64, 1500)])
def test_real_shapes(dtype, heads, width, queries, keys):
    seed = heads * queries
    Case(dtype, random_runs(seed, 2, queries, keys), 2, heads, width, rank=64, seed=seed).check()
