"""LoRRA attention's kernels compiled for cards that are not there: registers and shared memory."""

from compiled import SHARED_LIMIT, Job, report

from wings.kernels import lorra_attention as forward_file
from wings.kernels import lorra_attention_backward as backward_file
from wings.kernels.tiles import padded_width
from wings.kernels.tuning import TABLE


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
