"""The decode kernels of LoRRA attention against the definition in float64."""

import random
from functools import partial

import pytest
import torch
from compiled import SHARED_LIMIT, launched, report
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from lorra_case import DEVICE, DTYPES
from rounding import budget, random_losses
from routed_case import poisoned_memory

from wings.kernels import decode_splits as splits_file
from wings.kernels.decode_splits import count_splits
from wings.kernels.lorra_attention import decode as decode_file
from wings.kernels.lorra_attention.decode import lorra_decode
from wings.kernels.tuning import Blocks
from wings.layers.router import AttendedRouter, GateMask

NAMES = (
    "x", "t", "source", "compressed", "b_q", "b_k", "b_v", "a_o", "b_o", "gate", "heads",
    "rope_q", "rope_k", "hidden",
)  # fmt: skip


@pytest.fixture(autouse=True)
def poisoned():
    with poisoned_memory():
        yield


def definition(
    x, t, source, compressed, b_q, b_k, b_v, a_o, b_o, gate, heads, rope_q, rope_k, hidden
):
    """The formulas, in the dtype of the arguments."""

    def turned(rows, table):
        cos, sin = (part[..., None, :] for part in table.chunk(2, dim=-1))
        first, second = rows.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    c_k, c_v = compressed.unbind(1)
    q = turned((x + t @ b_q).unflatten(-1, (heads, -1)), rope_q)
    k = turned((source + c_k @ b_k).unflatten(-1, (heads, -1)), rope_k).transpose(1, 2)
    v = (source + c_v @ b_v).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = (k @ q[..., None])[..., 0] / q.shape[-1] ** 0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None], float("-inf"))
    weights = scores.softmax(-1).nan_to_num()
    out = (weights[:, :, None] @ v).flatten(1) @ a_o
    return (out * gate[:, None]) @ b_o


def call(dtype, seed=0, batch=2, keys=30, heads=2, width=16, rank=8, hidden="some"):
    """Random arguments in float64, rounded to what `dtype` can hold."""
    generator = torch.Generator().manual_seed(seed)
    D = heads * width

    def draw(*sizes, std=1.0):
        values = torch.randn(*sizes, generator=generator, dtype=torch.float64) * std
        return values.to(DEVICE, dtype).double()

    def table(*sizes):
        angle = torch.randn(*sizes, width // 2, generator=generator, dtype=torch.float64) * 3
        return torch.cat([angle.cos(), angle.sin()], -1).to(DEVICE, dtype).double()

    tensors = [draw(batch, D), draw(batch, rank), draw(batch, keys, D)]
    tensors += [draw(batch, 2, keys, rank)]
    tensors += [draw(rank, D, std=0.5 * rank**-0.5) for _ in range(3)]
    tensors += [draw(D, rank, std=D**-0.5), draw(rank, D, std=rank**-0.5), draw(batch)]
    mask = None
    if hidden != "none":
        mask = torch.rand(batch, keys, generator=generator) < (1 if hidden == "all" else 0.4)
        mask = mask.to(DEVICE)
    ropes = [table(batch), table(batch, keys)]
    return dict(zip(NAMES, [*tensors, heads, *ropes, mask], strict=True))


def in_dtype(case, dtype):
    return {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in case.items()
    }


def check(case, dtype):
    """Runs the kernels and checks them against the budgets of `rounding.py`."""
    exact = {"out": definition(**case)}
    found = lorra_decode(**in_dtype(case, dtype))
    assert found.dtype == dtype and found.isfinite().all()
    losses = random_losses(lambda: {"out": definition(**case)}, exact, dtype)
    error = (found.double() - exact["out"]).norm()
    limit = budget(losses["out"], exact["out"], dtype) + 2e-6 * found.numel() ** 0.5
    assert error <= limit, f"{error:.2e} against {limit:.2e}"
    return found


@pytest.mark.parametrize("hidden", ["none", "some", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(2)
@given(seed=st.integers(0, 1_000_000))
def test_any_shape(dtype, hidden, seed):
    draw = random.Random(f"{dtype} {hidden} {seed}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_file, "blocks_for", lambda *_: Blocks(16, 16, 4, 1))
        patch.setattr(splits_file, "TARGET_PROGRAMS", draw.choice([1, 8, 1000]))
        case = call(
            dtype, seed, draw.randint(1, 3), draw.randint(1, 70), draw.randint(1, 3),
            draw.choice([16, 20, 24]), draw.choice([1, 3, 16, 20]), hidden,
        )  # fmt: skip
        found = check(case, dtype)
    if hidden != "none":
        blind = case["hidden"].all(1)
        assert not found[blind].any()


@pytest.mark.parametrize("width, rank", [(80, 5), (128, 64), (256, 4), (32, 128)])
def test_any_width_and_rank(width, rank):
    check(call(torch.float32, heads=1, width=width, rank=rank, keys=40), torch.float32)


def test_views_of_larger_buffers_and_what_is_not_filled_yet():
    """A cache hands out views; the rows that are hidden may hold anything."""
    case = in_dtype(call(torch.float32, keys=20, hidden="some"), torch.float32)
    expected = lorra_decode(**case)
    unseen = case["hidden"]
    for name, dim in (("source", 1), ("compressed", 2), ("rope_k", 1)):
        value = case[name]
        sizes = list(value.shape)
        sizes[dim] += 13
        buffer = value.new_full(sizes, float("nan"))
        view = buffer.narrow(dim, 0, value.shape[dim])
        view.copy_(value)
        rows = view.transpose(1, 2) if name == "compressed" else view
        rows[unseen] = float("nan")
        case[name] = view
    assert torch.equal(lorra_decode(**case), expected)


def test_nothing_to_do():
    assert not lorra_decode(**in_dtype(call(torch.float32, keys=0), torch.float32)).any()
    assert lorra_decode(**in_dtype(call(torch.float32, batch=0), torch.float32)).shape == (0, 32)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("x", torch.zeros(2, 1, 32), "x has 3 dimensions; it needs 2"),
        ("gate", torch.zeros(2, 1), r"gate is torch.float32 \[2, 1\], but it must hold floats"),
        ("mass", torch.zeros(2), "give mass and raw together, or neither"),
        ("power", 8.0, "power is 8.0; give 0, or with mass"),
        ("heads", 3, "lorra_decode: 3 heads do not divide x's width 32"),
        ("rope_k", torch.zeros(2, 29, 16), r"rope_k is \[2, 29, 16\]"),
        (
            "b_o",
            torch.zeros(8, 32).half(),
            "lorra_decode: b_o is torch.float16 and x is torch.float32",
        ),
        ("b_v", torch.zeros(32, 8).T, "b_v has gaps"),
        ("hidden", torch.zeros(2, 30), "hidden is torch.float32"),
        ("hidden", torch.zeros(2, 31, dtype=torch.bool), r"torch.bool \[2, 30\]"),
    ],
)
def test_arguments_that_do_not_fit(name, value, message):
    case = in_dtype(call(torch.float32), torch.float32)
    moved = value.to(DEVICE) if torch.is_tensor(value) else value
    with pytest.raises(ValueError, match=message):
        lorra_decode(**{**case, name: moved})


def test_pieces_fill_the_card_and_none_is_empty():
    for keys in (1, 31, 32, 33, 2048, 4096, 100_000):
        for programs in (1, 8, 32, 1000):
            assert 1 <= count_splits(keys, 32, programs) <= min(64, -(-keys // 32))
    # A batch of one at D 4,096: more programs than the 132 of an H100 that run at once.
    assert count_splits(4096, 32, 32) * 32 >= 2 * 132


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(4)
@given(seed=st.integers(0, 1_000_000), shape=st.sampled_from(["tanh", "hill"]))
def test_the_kernel_computes_the_weights_of_an_attended_router(dtype, seed, shape):
    draw = random.Random(f"{dtype} {shape} {seed}")
    batch = draw.randint(1, 4)
    power = draw.choice([1.0, 8.0, 20.0])
    router = AttendedRouter(("image", "text"), shape, power=power).to(DEVICE)
    with torch.no_grad():
        for parameter in router.parameters():
            # Gains from 1e-6 to 30, or thresholds from 1e-9 to 1.
            parameter.fill_(draw.uniform(-14, 30) if shape == "tanh" else draw.uniform(-20, 0))
    mass = [draw.choice([0.0, 1e-35, 10 ** draw.uniform(-8, 0), 1.0]) for _ in range(batch)]
    sums = torch.tensor(mass, device=DEVICE)[:, None, None]
    seen = torch.tensor([draw.random() < 0.8 for _ in range(batch)], device=DEVICE)
    mask = GateMask(torch.stack([seen, ~seen], dim=-1)[:, None])
    number = draw.randint(0, 1)
    gate = router(sums, None, mask, in_kernel=True)[number]
    # The output is the gate times that of a call with a gate of 1.
    case = in_dtype(call(dtype, seed, batch, 5, hidden="none"), dtype)
    case["gate"] = gate.factor.new_ones(batch)
    plain = lorra_decode(**case).double()
    case |= {"gate": gate.factor, "mass": gate.mass, "raw": gate.raw, "power": gate.power}
    found = lorra_decode(**case).double()
    exact = router.double()(sums.double(), None, mask)[:, 0, number, None]
    # In half precision the smallest numbers round to 0. The exponential of a Hill gate multiplies
    # the rounding of its argument by up to the power.
    close = 2 * torch.finfo(dtype).eps + (4e-6 if shape == "tanh" else 2e-4)
    least = 1e-36 if dtype == torch.float32 and shape == "tanh" else 1e-7
    torch.testing.assert_close(found, plain * exact, rtol=close, atol=least)
    assert not found[(exact == 0)[:, 0]].any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_real_shapes(dtype):
    check(call(dtype, batch=2, keys=5000, heads=32, width=128, rank=64), dtype)


CARDS = [(90, torch.bfloat16, 128), (80, torch.bfloat16, 128), (90, torch.bfloat16, 256)]


def test_compiled_kernels_spill_nothing():
    kernels = ["split_kernel", "join_kernel", "output_kernel"]
    jobs = [
        job
        for target, dtype, width in CARDS
        for job in launched(decode_file, kernels, target, partial(launch, dtype, width))
    ]
    for job, found in zip(jobs, report(*jobs), strict=True):
        print(job.kernel, job.constants["RANK"], job.target, job.warps, found)
        assert found.shared <= SHARED_LIMIT[job.target], job.kernel
        assert found.spilled == 0, job.kernel


def launch(dtype, width, batch=1, keys=4096, rank=64):
    D = 4096
    new = {"dtype": dtype, "device": "meta"}
    sizes = [(batch, D), (batch, rank), (batch, keys, D), (batch, 2, keys, rank)]
    sizes += [(rank, D)] * 3 + [(D, rank), (rank, D), (batch,)]
    tensors = [torch.empty(*size, **new) for size in sizes]
    ropes = torch.empty(batch, width, **new), torch.empty(batch, keys, width, **new)
    hidden = torch.empty(batch, keys, dtype=torch.bool, device="meta")
    mass, raw = torch.empty(batch, device="meta"), torch.empty(1, **new)
    for power in (0.0, 8.0):
        decode_file.launch(*tensors, D // width, *ropes, hidden, mass, raw, power)
