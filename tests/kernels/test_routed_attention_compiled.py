"""Routed attention's kernels compiled for GPUs with the blocks of the table."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compiled import SHARED_LIMIT, Recorder, report

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.routed_attention import backward as backward_file
from wings.kernels.routed_attention import forward as forward_file
from wings.kernels.tuning import Kind, blocks_for, descriptor_loads
from wings.kernels.visits import visits

# Consumer GPUs of the same generation have less shared memory than an A100.
SMALL_CARD = 99 * 1024


# Compute capability, head width, dtype.
FAST = [(90, 128, torch.bfloat16), (80, 128, torch.bfloat16)]
WIDE = [
    (90, 256, torch.bfloat16),
    (80, 256, torch.bfloat16),
    (80, 64, torch.float32),
    (80, 256, torch.float32),
]


def jobs_for(target, width, dtype):
    """The three kernels, as a GPU of this compute capability launches them."""
    card = SimpleNamespace(type="cuda")
    jobs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(target, 10))
        for file, names in (
            (forward_file, ["forward_kernel"]),
            (backward_file, ["dq_kernel", "dkv_kernel"]),
        ):
            patch.setattr(file, "blocks_for", lambda *given: blocks_for(*given[:3], card))
            for name in names:
                patch.setattr(file, name, Recorder(getattr(file, name), target, jobs))
        launch(width, dtype)
    assert [job.kernel for job in jobs] == ["forward_kernel", "dq_kernel", "dkv_kernel"]
    return jobs


def launch(width, dtype):
    B, H, G, T, S = 2, 32, 8, 2048, 4096
    new = {"dtype": dtype, "device": "meta"}
    q = torch.empty(B, T, H, width, **new).transpose(1, 2)
    k, v = torch.empty(2, B, S, G, width, **new).transpose(2, 3)
    columns = torch.empty(B, S, 2, device="meta")
    key_ranges = KeyRanges.causal(T, S, device="meta")
    kind = Kind(width, dtype, SimpleNamespace(type="cuda"))
    ranges = visits(key_ranges, "routed_attention", kind, with_backward=True)
    out, sums, lse = forward_file.forward(q, k, v, columns, ranges, 0.1)
    sums_of_all = sums.sum(1)
    backward_file.backward(
        q, k, v, columns, out, sums, lse, out, sums_of_all, ranges, 0.1, columns_grad=True
    )


@pytest.fixture(scope="module")
def compiled():
    """Kernels and reports by case; one process compiles all, as it must import torch."""
    jobs = {case: jobs_for(*case) for case in FAST + WIDE}
    found = iter(report(*[job for of in jobs.values() for job in of]))
    return {case: [(job.kernel, next(found)) for job in of] for case, of in jobs.items()}


def fits(target, kernels):
    for kernel, result in kernels:
        print(kernel, target, result)
        # Blocks for any GPU must fit a small one.
        assert result.shared <= (SHARED_LIMIT[90] if target == 90 else SMALL_CARD)
    return len(kernels) == 3


@pytest.mark.parametrize("case", FAST, ids=str)
def test_compiles_for_a_gpu(case, compiled):
    assert fits(case[0], compiled[case])
    for kernel, result in compiled[case]:
        assert result.spilled <= 32, kernel


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_wide_heads_and_float32_fit_into_shared_memory(case, compiled):
    """Some spill, which is slow, by no more than this; kernels that do not fit would not start."""
    assert fits(case[0], compiled[case])
    for kernel, result in compiled[case]:
        assert result.spilled <= 192, kernel


def test_descriptors_take_fewer_registers():
    """Compiled with TMA loads: the figures of kernels/README.md."""
    found = {}
    for width in (64, 128):
        plain, *_ = jobs_for(90, width, torch.bfloat16)
        with descriptor_loads():
            described, *_ = jobs_for(90, width, torch.bfloat16)
        assert described.constants["DESCRIPTORS"] and not plain.constants["DESCRIPTORS"]
        found[width] = report(plain, described)
    guide = (Path(__file__).parents[2] / "kernels/README.md").read_text()
    for width, (plain, described) in found.items():
        print(width, plain, described)
        assert described.registers < plain.registers and not described.spilled
        for one in (plain, described):
            assert f"{one.registers} registers and {one.spilled} spilled bytes" in guide, width
