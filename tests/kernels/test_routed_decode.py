"""The decode kernels of routed attention against the definition in float64."""

import random
from functools import partial

import pytest
import torch
from compiled import SHARED_LIMIT, launched, report
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from rounding import budget, random_losses
from routed_case import DEVICE, DTYPES, arguments, definition, poisoned_memory

from wings.kernels import decode_splits as splits_file
from wings.kernels.routed_attention import decode as decode_file
from wings.kernels.routed_attention.decode import routed_decode
from wings.kernels.tuning import Blocks


def check(inputs, mask, scale):
    """Runs the kernels and checks both results against the budgets of `rounding.py`."""
    inputs = [x.detach() for x in inputs]
    dtype, keys = inputs[0].dtype, inputs[1].shape[2]
    sees = torch.ones(1, keys, dtype=torch.bool, device=DEVICE) if mask is None else mask
    wide = [x.double() for x in inputs]

    def in_float64():
        return dict(zip(("out", "sums"), definition(*wide, sees[:, None], scale), strict=True))

    exact = in_float64()
    losses = random_losses(in_float64, exact, dtype)
    with poisoned_memory():
        found = dict(zip(("out", "sums"), routed_decode(*inputs, mask, scale), strict=True))
    for name, result in found.items():
        assert result.shape == exact[name].shape and result.isfinite().all(), name
        error = float((result.double() - exact[name]).norm())
        limit = budget(losses[name], exact[name], dtype) + 2e-6 * result.numel() ** 0.5
        assert error <= limit, f"{name}: {error:.2e} against {limit:.2e}"
    return found


@pytest.mark.parametrize("masked", ["none", "some", "all", "shared"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(2)
@given(seed=st.integers(0, 1_000_000))
def test_any_shape(dtype, masked, seed):
    draw = random.Random(f"{dtype} {masked} {seed}")
    rows, groups, group = draw.randint(1, 3), draw.randint(1, 2), draw.choice([1, 2, 3, 17])
    keys = draw.randint(1, 70)
    inputs = arguments(
        (rows, groups * group, groups, 1, keys), dtype, seed, draw.choice([4, 16, 24]),
        draw.choice([8, 16, 20]), draw.choice([1, 2, 3, 17]),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    mask = None
    if masked != "none":
        count = 1 if masked == "shared" else rows
        mask = torch.rand(count, keys, generator=generator) > (1 if masked == "all" else 0.4)
        mask = mask.to(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_file, "blocks_for", lambda *_: Blocks(16, 16, 4, 1))
        patch.setattr(splits_file, "TARGET_PROGRAMS", draw.choice([1, 8, 1000]))
        found = check(inputs, mask, draw.choice([0.1, 0.25, 1.0]))
    if masked == "all":
        assert not found["out"].any() and not found["sums"].any()


@pytest.mark.parametrize("width", [72, 128, 256])
def test_head_widths_with_the_blocks_of_the_table(width):
    inputs = arguments((1, 4, 2, 1, 45), torch.float32, width, width, columns=3)
    check(inputs, None, width**-0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_real_shapes(dtype):
    inputs = arguments((2, 32, 8, 1, 5000), dtype, 0, 128, columns=2)
    mask = torch.arange(5000, device=DEVICE)[None] < 4000
    check(inputs, mask, 128**-0.5)


def test_keys_that_are_not_seen_are_not_read():
    inputs = [x.detach() for x in arguments((2, 4, 2, 1, 40), torch.float32)]
    mask = torch.zeros(2, 40, dtype=torch.bool, device=DEVICE)
    mask[0, 5:9], mask[1, :30] = True, True
    expected = routed_decode(*inputs, mask, 0.2)
    for x in inputs[1:3]:
        x.transpose(1, 2)[~mask] = float("nan")
    inputs[3][~mask] = float("nan")
    found = routed_decode(*inputs, mask, 0.2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nothing_to_do():
    for rows, keys in ((0, 5), (2, 0)):
        inputs = [x.detach() for x in arguments((rows, 4, 2, 1, keys), torch.float32)]
        out, sums = routed_decode(*inputs, None, 0.2)
        assert out.shape == (rows, 1, 4, 16) and sums.shape == (rows, 1, 2)
        assert not out.any() and not sums.any()


def test_arguments_that_do_not_fit():
    q, k, v, columns = (x.detach() for x in arguments((2, 4, 2, 1, 5), torch.float32))
    wrong = [
        ((torch.cat([q, q], 2), k, v, columns, None, 0.2), "q has 2 queries a row"),
        ((q, k, v, columns, torch.ones(2, 5), 0.2), "mask is torch.float32"),
        ((q, k, v, columns, torch.ones(2, 6).bool(), 0.2), r"\[2 or 1, 5\]"),
        ((q, k.half(), v, columns, None, 0.2), "k is torch.float16"),
        ((q, k, v, columns, None, 0.0), "scale is 0.0"),
    ]
    for given_, message in wrong:
        with pytest.raises(ValueError, match=message):
            routed_decode(*given_)


def test_compiled_kernels_spill_nothing():
    kernels = ["split_kernel", "join_kernel"]
    jobs = [
        job
        for target, width in ((90, 128), (80, 128), (90, 256))
        for job in launched(decode_file, kernels, target, partial(launch, width))
    ]
    for job, found in zip(jobs, report(*jobs), strict=True):
        print(job.kernel, job.target, job.constants["E"], found)
        assert found.shared <= SHARED_LIMIT[job.target], job.kernel
        assert found.spilled == 0, job.kernel


def launch(width, heads=32, groups=8, keys=4096):
    new = {"dtype": torch.bfloat16, "device": "meta"}
    q = torch.empty(1, heads, 1, width, **new)
    k, v = torch.empty(2, 1, groups, keys, width, **new)
    columns = torch.empty(1, keys, 2, **new)
    mask = torch.empty(1, keys, dtype=torch.bool, device="meta")
    decode_file.launch(q, k, v, columns, mask, 0.1)
