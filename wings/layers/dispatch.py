"""The one place that chooses how the two operations of a block run: in torch or in Triton."""

import importlib.util
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wings.attention import routed_attention as in_torch
from wings.attention.rotary import CosSin
from wings.attention.routed_attention import Rule
from wings.attention.source_tokens import SourceTokens
from wings.errors import WingsError
from wings.kernels.key_ranges import KeyRanges
from wings.saved_code import IS_COPY

from .router import TokenGate

IMPLS = ("auto", "triton", "torch")
# Overrides what a model asks for, to find out whether a kernel is to blame.
VARIABLE = "WINGS_KERNELS"
HAS_TRITON = importlib.util.find_spec("triton") is not None
HALF_PRECISION = (torch.float16, torch.bfloat16)
KERNEL_DTYPES = (*HALF_PRECISION, torch.float32)


def routed_attention(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, rule: Rule, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`wings.attention.routed_attention.routed_attention` with the chosen `impl`.

    A single query runs in torch where it may need a gradient.

    Raises:
        WingsError: impl is "triton" and the kernel cannot run.
    """
    # torch's attention follows autocast on its own, the kernel does not.
    is_step = q.shape[2] == 1
    if not is_step:
        q, k, v = _as_autocast(q, k, v)
    reason = partial(_routed_unsupported_reason, q, v, columns, rule)
    # The kernels of one query have no gradient.
    if (is_step and torch.is_grad_enabled()) or choose(impl, q, reason) == "torch":
        return in_torch.routed_attention(q, k, v, columns, rule)
    if is_step:
        from wings.kernels.routed_attention.decode import routed_decode

        mask = None if rule.mask is None else rule.mask[:, 0, 0]
        # The sums stay in float32, in which routers compute.
        return routed_decode(*_as_autocast(q, k, v), columns, mask, rule.scale)
    from wings.kernels.routed_attention.forward import routed_attention as fused

    ranges = rule.ranges() if rule.ranges is not None else None
    if ranges is None:
        # Without a mask a rule is causal, whatever else a decoder may mask elsewhere.
        ranges = KeyRanges.causal(q.shape[2], k.shape[2], device=q.device)
    out, sums = fused(q, k, v, columns, ranges, rule.scale)
    return out, sums.to(columns.dtype)


def fused_lorra_attention(
    x: Tensor,
    query_part: Tensor,
    source: SourceTokens,
    compressed: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    rope: CosSin,
) -> Tensor:
    """`wings.layers.lorra.lorra_attention` in Triton."""
    from wings.kernels.lorra_attention.forward import lorra_attention as fused

    assert source.rope is not None and source.mask.ranges is not None
    tensors = _as_autocast(x, query_part, source.tokens, compressed, *factors)
    x, query_part, tokens, compressed, b_q, b_k, b_v, a_o = tensors
    key_part, value_part = compressed.unbind(1)
    heads = x.shape[-1] // rope.table.shape[-1]
    (cos, sin), (source_cos, source_sin) = (
        table.float().chunk(2, dim=-1) for table in (rope.table, source.rope.table)
    )
    return fused(
        x, query_part, tokens, key_part, value_part, b_q, b_k, b_v, a_o, heads,
        (cos, sin), (source_cos, source_sin), source.mask.ranges,
    )  # fmt: skip


def fused_lorra_decode(
    row: Tensor,
    query_part: Tensor,
    source: SourceTokens,
    compressed: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    gate: TokenGate,
    rope: CosSin,
) -> Tensor:
    """gate times a learner's output for one token a row in Triton, `[B, D]`.

    Args:
        row: the block's normed input, `[B, D]`.
        query_part: row A_q, `[B, r]`.
        source: the source tokens, with the forms of a decode step.
        compressed: s A_k and s A_v, `[B, 2, S, r]`.
        factors: B_q, B_k, B_v, A_o and B_o.
        gate: the router's weights, or what the kernel computes them from.
        rope: of the tokens' positions.
    """
    from wings.kernels.lorra_attention.decode import lorra_decode

    assert source.decode is not None, "the pass has one token a row"
    ropes = rope.table[:, 0], source.decode.rope_table
    *tensors, rope_q, rope_k = _as_autocast(
        row, query_part, source.tokens, compressed, *factors, *ropes
    )
    heads, hidden = row.shape[-1] // rope.table.shape[-1], source.mask.hidden
    return lorra_decode(
        *tensors, gate.factor, heads, rope_q, rope_k, None if hidden is None else hidden[:, 0],
        gate.mass, gate.raw, gate.power,
    )  # fmt: skip


def lorra_impl(impl: str, embeddings: Tensor, width: int, rank: int, continued: bool) -> str:
    """`"triton"` or `"torch"` for the learners of a pass.

    Args:
        impl: "auto", "triton" or "torch".
        embeddings: gives device and dtype.
        width: of the learners' heads.
        rank: r.
        continued: whether tokens came before, so that the learners' keys have gaps.

    Raises:
        WingsError: impl is "triton" and the kernel cannot run.
    """

    def reason() -> str | None:
        if embeddings.dtype not in KERNEL_DTYPES:
            return f"the tensors are {embeddings.dtype}"
        if not 16 <= width <= 256:
            return f"the learners' heads are {width} wide, and 16 to 256 is possible"
        if rank > 128:
            return f"the learners' rank is {rank}, and 128 is the most"
        return "tokens came before, so that the learners' keys have gaps" if continued else None

    return choose(impl, embeddings, reason)


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that autocast has for products, or the tensor's without it."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype that autocast has for products, or as they are without it."""
    if not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    dtype = working_dtype(tensors[0])
    return tuple(tensor.to(dtype) for tensor in tensors)


def choose(impl: str, tensor: Tensor, unsupported_reason: Callable[[], str | None]) -> str:
    """`"triton"` or `"torch"`.

    Args:
        impl: `"auto"` takes the kernels on a GPU wherever they can run, in half precision;
            `"triton"` insists. The environment variable `WINGS_KERNELS` overrides it.
        tensor: gives device and dtype.
        unsupported_reason: why the kernel cannot run, or None; asked only if it matters.

    Raises:
        WingsError: an unknown impl, or `"triton"` where it cannot run, with the reason.
    """
    impl = validate_impl(os.environ.get(VARIABLE) or impl)
    # No card has shown that the kernels are faster in float32.
    is_fast = tensor.device.type == "cuda" and working_dtype(tensor) in HALF_PRECISION
    if impl == "torch" or (impl == "auto" and not is_fast):
        return "torch"
    reason = _missing(tensor.device) or unsupported_reason()
    if reason is None:
        return "triton"
    if impl == "triton":
        raise WingsError(f"Triton kernels were asked for, but {reason}: use 'auto' or 'torch'.")
    return "torch"


def validate_impl(impl: str) -> str:
    """Returns the name; a `WingsError` if it is not one of `IMPLS`."""
    if impl not in IMPLS:
        raise WingsError(f"impl is '{impl}', but must be 'auto', 'triton' or 'torch'.")
    return impl


def _missing(device: torch.device) -> str | None:
    """The thing that this machine lacks to run a kernel, or None."""
    if IS_COPY:
        return "the kernels are in the package wings-lorra, which is not installed"
    if not HAS_TRITON:
        return "triton is not installed"
    if device.type == "cuda":
        return None
    from wings.kernels.tiles import INTERPRETED

    if INTERPRETED.value:
        return None
    return f"the tensors are on {device}, where Triton only runs with TRITON_INTERPRET=1"


def _routed_unsupported_reason(q: Tensor, v: Tensor, columns: Tensor, rule: Rule) -> str | None:
    """Why the kernel cannot compute this routed attention, or None."""
    if rule.softcap is not None or rule.sinks is not None or rule.dropout:
        return "the decoder's attention has a soft cap, sinks or dropout"
    if q.dtype not in KERNEL_DTYPES:
        return f"the tensors are {q.dtype}"
    if max(q.shape[-1], v.shape[-1]) > 256:
        return f"the decoder's heads are {max(q.shape[-1], v.shape[-1])} wide, and 256 is the most"
    if columns.shape[-1] > 64:
        return f"the router asks for {columns.shape[-1]} columns, and 64 is the most"
    is_step = q.shape[2] == 1
    if not is_step and rule.mask is not None and (rule.ranges is None or rule.ranges() is None):
        return "the decoder's mask is not made of one range of keys per token"
    return None
