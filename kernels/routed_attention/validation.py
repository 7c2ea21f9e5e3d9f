"""Checks of the arguments of routed attention, before any launch."""

import torch
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.tiles import INTERPRETED

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST, MOST_COLUMNS = 256, 64


def validate(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, key_ranges: KeyRanges, scale: float
) -> None:
    """Raises a ValueError for the first argument of `routed_attention` that does not fit."""
    validate_tensors(q, k, v, columns, scale)
    key_ranges.validate(q.shape[0], q.shape[2], k.shape[2], q.device)


def validate_decode(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor | None, scale: float
) -> None:
    """Raises a ValueError for the first argument of `routed_decode` that does not fit."""
    validate_tensors(q, k, v, columns, scale)
    if q.shape[2] != 1:
        raise ValueError(f"q has {q.shape[2]} queries a row; decoding takes one.")
    if mask is None:
        return
    keys = k.shape[2]
    if mask.dtype != torch.bool or tuple(mask.shape) not in ((q.shape[0], keys), (1, keys)):
        raise ValueError(
            f"mask is {mask.dtype} {list(mask.shape)}; it must be torch.bool "
            f"[{q.shape[0]} or 1, {keys}]."
        )
    if mask.device != q.device:
        raise ValueError(f"mask is on {mask.device} but q is on {q.device}; move one of them.")


def validate_tensors(q: Tensor, k: Tensor, v: Tensor, columns: Tensor, scale: float) -> None:
    """Checks the four tensors and the scale."""
    validate_shapes(q, k, v, columns)
    for name, x in {"k": k, "v": v}.items():
        if x.dtype != q.dtype:
            raise ValueError(f"{name} is {x.dtype} but q is {q.dtype}; both need one dtype.")
    if q.dtype not in DTYPES:
        raise ValueError(f"q is {q.dtype}; the kernels take float16, bfloat16 and float32.")
    if not columns.dtype.is_floating_point:
        raise ValueError(f"columns are {columns.dtype}; they need a float dtype.")
    for name, x in {"k": k, "v": v, "columns": columns}.items():
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} but q is on {q.device}; move one of them.")
    if q.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"q is on {q.device}, where Triton's kernels do not run; move it to a GPU, or set "
            "TRITON_INTERPRET=1 before triton is imported."
        )
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0.")


def validate_shapes(q: Tensor, k: Tensor, v: Tensor, columns: Tensor) -> None:
    """Checks the shapes of the four tensors against each other."""
    dims = {"q": (q, "B, H, T, d"), "k": (k, "B, G, S, d"), "v": (v, "B, G, S, e")}
    for name, (x, names) in {**dims, "columns": (columns, "B, S, C")}.items():
        if x.ndim != len(names.split(", ")):
            raise ValueError(f"{name} has shape {list(x.shape)}; it must be [{names}].")
    for name, (x, _) in dims.items():
        if not 1 <= x.shape[-1] <= WIDEST:
            raise ValueError(f"{name} has width {x.shape[-1]}; 1 to {WIDEST} are possible.")
    if not 1 <= columns.shape[-1] <= MOST_COLUMNS:
        raise ValueError(f"columns has C = {columns.shape[-1]}; 1 to {MOST_COLUMNS} are possible.")
    (B, H, _, d), (_, G, S, _) = q.shape, k.shape
    if k.shape[0] != B or k.shape[3] != d:
        raise ValueError(
            f"k has shape {list(k.shape)}, but q of {list(q.shape)} needs [{B}, G, S, {d}]."
        )
    if G == 0 or H == 0 or H % G:
        raise ValueError(f"k has {G} heads, which do not divide q's {H}.")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"v has shape {list(v.shape)}, but k of {list(k.shape)} needs [{B}, {G}, {S}, e]."
        )
    if columns.shape[:2] != (B, S):
        raise ValueError(
            f"columns has shape {list(columns.shape)}, but k of {list(k.shape)} needs "
            f"[{B}, {S}, C]."
        )
