"""The two operations of a block, and the one place that chooses how they run."""

import importlib.util
import os
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from wings.attention import routed_attention as plain_routed
from wings.attention.rotary import Rotation
from wings.attention.routed_attention import Rule
from wings.attention.source_tokens import Kept, Source
from wings.errors import WingsError
from wings.kernels.key_ranges import KeyRanges

from . import lorra_attention as plain_learner

WAYS = ("auto", "triton", "torch")
# Overrides what a model asks for, to find out whether a kernel is to blame.
VARIABLE = "WINGS_KERNELS"
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`wings.attention.routed_attention.routed_attention` in the `way` that is chosen.

    One query is plain arithmetic in every way.

    Raises:
        WingsError: 'triton' was asked for and cannot be had.
    """
    if q.shape[2] > 1:
        q, k, v = as_autocast(q, k, v)
    obstacle = partial(routed_obstacle, q, v, columns, rule)
    if q.shape[2] == 1 or choose(way, q.device, obstacle) == "torch":
        return plain_routed.routed_attention(q, k, v, columns, rule)
    from wings.kernels.routed_attention.forward import routed_attention as fused

    runs = rule.runs() if rule.runs is not None else None
    if runs is None:
        # Without a mask a rule is causal, whatever else a decoder may mask elsewhere.
        runs = KeyRanges.causal(q.shape[2], k.shape[2], device=q.device)
    out, sums = fused(q, k, v, columns, runs, rule.scale)
    return out, sums.to(columns.dtype)


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    kept: Kept,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rotation: Rotation,
    way: str = "auto",
) -> Tensor:
    """`wings.layers.lorra_attention.learner_attention` in the `way` that is chosen.

    Raises:
        WingsError: 'triton' was asked for and cannot be had.
    """
    obstacle = partial(learner_obstacle, x, inner, source)
    if choose(way, x.device, obstacle) == "torch":
        return plain_learner.learner_attention(x, inner, source, kept, factors, rotation)
    from wings.kernels.lorra_attention.forward import lorra_attention as fused

    tensors = as_autocast(x, inner, source.rows, kept.small, *factors)
    x, inner, rows, small, b_q, b_k, b_v, a_o = tensors
    key_part, value_part = small.unbind(1)
    heads = x.shape[-1] // rotation.width
    of_queries, of_rows = (
        (turn.cos.float(), turn.sin.float()) for turn in (rotation, source.rotation)
    )
    return fused(
        x, inner, rows, key_part, value_part, b_q, b_k, b_v, a_o, heads, of_queries, of_rows,
        source.visibility.runs,
    )  # fmt: skip


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype that autocast has for products, or as they are without it."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(tensor.to(dtype) for tensor in tensors)


def choose(way: str, device: torch.device, obstacle: Callable[[], str | None]) -> str:
    """`"triton"` or `"torch"`.

    Args:
        way: `"auto"` takes the kernels on a GPU wherever they can do the job; `"triton"` insists.
            The environment variable `WINGS_KERNELS` goes before it.
        device: where the tensors are.
        obstacle: says what keeps the kernels from doing the job, or None; asked only if it matters.

    Raises:
        WingsError: an unknown way, or `"triton"` where it cannot be had, with the reason.
    """
    way = known_way(os.environ.get(VARIABLE) or way)
    if way == "torch" or (way == "auto" and device.type != "cuda"):
        return "torch"
    reason = missing(device) or obstacle()
    if reason is None:
        return "triton"
    if way == "triton":
        raise WingsError(f"Triton kernels were asked for, but {reason}: use 'auto' or 'torch'.")
    return "torch"


def known_way(way: str) -> str:
    """The same; a `WingsError` if nothing is called so."""
    if way not in WAYS:
        raise WingsError(f"kernels are set to '{way}', but must be 'auto', 'triton' or 'torch'.")
    return way


def missing(device: torch.device) -> str | None:
    """What the machine lacks to run a kernel, or None."""
    if not has_triton():
        return "triton is not installed"
    if device.type == "cuda":
        return None
    from wings.kernels.tiles import INTERPRETED

    if INTERPRETED.value:
        return None
    return f"the tensors are on {device}, where Triton only runs with TRITON_INTERPRET=1"


@cache
def has_triton() -> bool:
    """Whether triton is installed; looked for once, as every block asks."""
    return importlib.util.find_spec("triton") is not None


def routed_obstacle(q: Tensor, v: Tensor, columns: Tensor, rule: Rule) -> str | None:
    """Why the kernel cannot compute this routed attention, or None."""
    if rule.softcap is not None or rule.sinks is not None or rule.dropout:
        return "the decoder's attention has a soft cap, sinks or dropout"
    if q.dtype not in KERNEL_DTYPES:
        return f"the tensors are {q.dtype}"
    if max(q.shape[-1], v.shape[-1]) > 256:
        return f"the decoder's heads are {max(q.shape[-1], v.shape[-1])} wide, and 256 is the most"
    if columns.shape[-1] > 64:
        return f"the router asks for {columns.shape[-1]} columns, and 64 is the most"
    if rule.mask is not None and (rule.runs is None or rule.runs() is None):
        return "the decoder's mask is not made of one run of keys per token"
    return None


def learner_obstacle(x: Tensor, inner: Tensor, source: Source) -> str | None:
    """Why the kernel cannot compute this learner's attention, or None."""
    width, rank = source.rotation.width, inner.shape[-1]
    if x.dtype not in KERNEL_DTYPES:
        return f"the tensors are {x.dtype}"
    if not 16 <= width <= 256:
        return f"the learners' heads are {width} wide, and 16 to 256 is possible"
    if rank > 128:
        return f"the learners' rank is {rank}, and 128 is the most"
    if source.visibility.continued:
        return "tokens came before, so that the learners' keys have gaps"
    return None
