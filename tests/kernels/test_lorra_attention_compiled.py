"""LoRRA attention's kernels compiled for GPUs: registers and shared memory."""

from dataclasses import replace

from compiled import SHARED_LIMIT, Job, report

from wings.kernels.lorra_attention import backward as backward_file
from wings.kernels.lorra_attention import forward as forward_file
from wings.kernels.tiles import padded_width
from wings.kernels.tuning import FEWEST_KEYS, TABLE


def job(kernel, width, rank, target, blocks, dtype="bf16"):
    """A kernel as launched for heads of `width` on a GPU of compute capability `target`."""
    file = forward_file if kernel == "forward_kernel" else backward_file
    half = width // 2
    constants = {
        "HALF": half, "HB": padded_width(half), "RANK": rank, "RB": padded_width(rank),
        "BM": blocks.queries, "BN": blocks.keys,
        **({"KEEPS_HEADS": True} if kernel == "forward_kernel" else {}),
    }  # fmt: skip
    single = ("p_cos", "p_sin", "p_lse", "p_out", "p_heads")
    whole = ("p_first", "p_end", "p_spans", "p_facts")
    signature = {}
    for name in getattr(file, kernel).arg_names:
        if name.startswith("p_"):
            kind = "fp32" if name in single else "i32" if name in whole else dtype
            signature[name] = f"*{kind}"
        elif name not in constants:
            signature[name] = "fp32" if name in ("scale", "factor") else "i32"
    divisible = [
        n for n in signature if n.startswith("stride_") and n[7:] not in ("range", "spans")
    ]
    return Job(
        file.__name__, kernel, signature, constants,
        target, blocks.warps, blocks.stages, tuple(divisible),
    )  # fmt: skip


KERNELS = {
    "lorra_attention": "forward_kernel",
    "lorra_attention_dq": "dq_kernel",
    "lorra_attention_dkv": "dkv_kernel",
}
# GPUs of compute capability 8.x share blocks, and most have less memory than an A100.
LIMITS = {90: SHARED_LIMIT[90], 80: 99 * 1024}


def jobs_for(width, target, card, dtype="bf16", size=2):
    """The kernels with the blocks of the table for a GPU generation, or None for any other."""
    for name, kernel in KERNELS.items():
        blocks = next(
            blocks for of, generation, widest, largest, blocks in TABLE
            if of == name and generation in (None, card) and width <= widest and size <= largest
        )  # fmt: skip
        yield job(kernel, width, 64, target, blocks, dtype)


def test_kernels_fit_the_cards():
    jobs = [each for of in ((64, 90, 9), (128, 90, 9), (128, 80, 8)) for each in jobs_for(*of)]
    for each, found in zip(jobs, report(*jobs), strict=True):
        print(each.kernel, each.constants["HALF"] * 2, each.target, found)
        assert found.shared <= LIMITS[each.target], each.kernel
        # The spills are in the rotation of queries, once per head. The loops have almost none, as
        # the machine code shows.
        assert found.spilled <= 208, each.kernel


def test_blocks_of_fewer_keys_fit_the_cards():
    """Those of `for_few_keys` for the kernel over keys."""
    jobs = []
    for width, target, card in ((64, 90, 9), (128, 90, 9), (128, 80, 8)):
        *_, dkv = jobs_for(width, target, card)
        for keys in {dkv.constants["BN"] // 2, FEWEST_KEYS}:
            if FEWEST_KEYS <= keys < dkv.constants["BN"]:
                jobs.append(replace(dkv, constants=dkv.constants | {"BN": keys}))
    assert jobs
    for each, found in zip(jobs, report(*jobs), strict=True):
        print(each.kernel, each.constants["HALF"] * 2, each.target, found)
        assert found.shared <= LIMITS[each.target] and not found.spilled


def test_wide_heads_float32_and_other_cards_fit_into_shared_memory():
    """Float32 may spill, which is slow; kernels that do not fit would not start."""
    others = [(256, 90, 9), (256, 80, 8), (128, 80, None)]
    others += [(width, 80, None, "fp32", 4) for width in (128, 256)]
    jobs = [each for of in others for each in jobs_for(*of)]
    for each, found in zip(jobs, report(*jobs), strict=True):
        print(each.kernel, each.constants["HALF"] * 2, each.target, each.warps, found)
        assert found.shared <= LIMITS[each.target], each.kernel
        if "*fp32" not in (each.signature.get("p_x"), each.signature.get("p_q")):
            assert found.spilled <= (0 if each.target == 90 else 208), each.kernel
