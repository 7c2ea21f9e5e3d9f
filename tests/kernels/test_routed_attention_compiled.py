"""Routed attention's kernels compiled for GPUs with the blocks of the table."""

from types import SimpleNamespace

import pytest
import torch
from compiled import SHARED_LIMIT, Recorder, report

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.routed_attention import backward as backward_file
from wings.kernels.routed_attention import forward as forward_file
from wings.kernels.tuning import blocks_for

# Consumer GPUs of the same generation have less shared memory than an A100.
SMALL_CARD = 99 * 1024


def compiled(target, width, dtype, monkeypatch):
    """Jobs and reports of the three kernels, as a GPU of this compute capability launches them."""
    card = SimpleNamespace(type="cuda")
    jobs = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(target, 10))
    for file, names in (
        (forward_file, ["forward_kernel"]),
        (backward_file, ["dq_kernel", "dkv_kernel"]),
    ):
        monkeypatch.setattr(file, "blocks_for", lambda *given: blocks_for(*given[:3], card))
        for name in names:
            monkeypatch.setattr(file, name, Recorder(getattr(file, name), target, jobs))
    B, H, G, T, S = 2, 32, 8, 2048, 4096
    new = {"dtype": dtype, "device": "meta"}
    q = torch.empty(B, T, H, width, **new).transpose(1, 2)
    k, v = torch.empty(2, B, S, G, width, **new).transpose(2, 3)
    columns = torch.empty(B, S, 2, device="meta")
    key_ranges = KeyRanges.causal(T, S, device="meta")
    out, sums, lse = forward_file.forward(q, k, v, columns, key_ranges, 0.1)
    sums_of_all = sums.sum(1)
    backward_file.backward(
        q, k, v, columns, out, sums, lse, out, sums_of_all, key_ranges, 0.1, columns_grad=True
    )
    assert [job.kernel for job in jobs] == ["forward_kernel", "dq_kernel", "dkv_kernel"]
    for job, result in zip(jobs, report(*jobs), strict=True):
        print(job.kernel, target, width, dtype, result)
        # Blocks for any GPU must fit a small one.
        assert result.shared <= (SHARED_LIMIT[90] if target == 90 else SMALL_CARD)
        yield job.kernel, result


@pytest.mark.parametrize(("target", "width"), [(90, 128), (80, 128)])
def test_compiles_for_a_gpu(target, width, monkeypatch):
    for kernel, result in compiled(target, width, torch.bfloat16, monkeypatch):
        assert result.spilled <= (512 if kernel == "dkv_kernel" else 96)


@pytest.mark.parametrize(
    ("target", "width", "dtype"),
    [
        (90, 256, torch.bfloat16),
        (80, 256, torch.bfloat16),
        (80, 64, torch.float32),
        (80, 256, torch.float32),
    ],
)
def test_wide_heads_and_float32_fit_into_shared_memory(target, width, dtype, monkeypatch):
    """They may spill, which is slow; kernels that do not fit would not start."""
    assert len(list(compiled(target, width, dtype, monkeypatch))) == 3
