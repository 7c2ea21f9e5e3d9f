"""Checks of the arguments of LoRRA attention, before any launch."""

import torch
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges
from wings.kernels.tiles import INTERPRETED

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NARROWEST, WIDEST, HIGHEST_RANK = 16, 256, 128


def validate(tensors: dict[str, Tensor], heads: int, key_ranges: KeyRanges) -> None:
    """Raises a ValueError for the first argument of `lorra_attention` that does not fit.

    Args:
        tensors: by name; cos and sin are `cos_q`, `sin_q`, `cos_k` and `sin_k`.
        heads, key_ranges: as given.
    """
    for name in ("x", "t", "source"):
        if tensors[name].dim() != 3:
            raise ValueError(
                f"lorra_attention: {name} has {tensors[name].dim()} dimensions; it needs three: "
                "batch, tokens, width."
            )
    (batch, count, width), rank = tensors["x"].shape, tensors["t"].shape[2]
    keys = tensors["source"].shape[1]
    validate_widths("lorra_attention", width, heads, rank)
    validate_shapes(tensors, (batch, count, width, keys, rank, width // heads // 2))
    validate_dtypes("lorra_attention", tensors)
    key_ranges.validate(batch, count, keys, tensors["x"].device)


def validate_decode(tensors: dict[str, Tensor], heads: int, hidden: Tensor | None) -> None:
    """Raises a ValueError for the first argument of `lorra_decode` that does not fit.

    Args:
        tensors: all tensors but `hidden` and those of the gate, by name.
        heads, hidden: as given.
    """
    for name, count in (("x", 2), ("t", 2), ("source", 3)):
        if tensors[name].dim() != count:
            raise ValueError(
                f"lorra_decode: {name} has {tensors[name].dim()} dimensions; it needs {count}."
            )
    (batch, width), rank = tensors["x"].shape, tensors["t"].shape[1]
    keys = tensors["source"].shape[1]
    validate_widths("lorra_decode", width, heads, rank)
    head = width // heads
    wanted = {
        "t": (batch, rank), "source": (batch, keys, width), "compressed": (batch, 2, keys, rank),
        "b_q": (rank, width), "b_k": (rank, width), "b_v": (rank, width), "b_o": (rank, width),
        "a_o": (width, rank), "rope_q": (batch, head), "rope_k": (batch, keys, head),
    }  # fmt: skip
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"lorra_decode: {name} is {list(tensors[name].shape)}, but x, t, source and heads "
                f"need {list(shape)}."
            )
    validate_dtypes("lorra_decode", tensors)
    for name, tensor in tensors.items():
        is_dense = tensor.stride(-1) == 1
        if name in ("b_q", "b_k", "b_v", "a_o", "b_o"):
            is_dense = tensor.is_contiguous()
        if not is_dense:
            raise ValueError(
                f"lorra_decode: {name} has gaps between its numbers; make it contiguous."
            )
    if hidden is None:
        return
    if hidden.dtype != torch.bool or tuple(hidden.shape) != (batch, keys) or hidden.stride(-1) != 1:
        raise ValueError(
            f"lorra_decode: hidden is {hidden.dtype} {list(hidden.shape)}, but it must be "
            f"torch.bool {[batch, keys]} without gaps."
        )
    if hidden.device != tensors["x"].device:
        raise ValueError(
            f"lorra_decode: hidden is on {hidden.device} but x is on {tensors['x'].device}; move "
            "one of them."
        )


def validate_gate(
    x: Tensor, gate: Tensor, mass: Tensor | None, raw: Tensor | None, power: float
) -> None:
    """Raises a ValueError for the first argument of a decode step's gate that does not fit."""
    if (mass is None) != (raw is None):
        raise ValueError("lorra_decode: give mass and raw together, or neither.")
    if power < 0 or (mass is None and power):
        raise ValueError(
            f"lorra_decode: power is {power}; give 0, or with mass the power of a Hill gate."
        )
    for name, tensor, shape in (
        ("gate", gate, (len(x),)), ("mass", mass, (len(x),)), ("raw", raw, (1,))
    ):  # fmt: skip
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ValueError(
                f"lorra_decode: {name} is {tensor.dtype} {list(tensor.shape)}, but it must hold "
                f"floats of shape {list(shape)}."
            )
        if tensor.device != x.device:
            raise ValueError(
                f"lorra_decode: {name} is on {tensor.device} but x is on {x.device}; move one "
                "of them."
            )


def validate_widths(operation: str, width: int, heads: int, rank: int) -> None:
    """Checks that heads divide the width and that the kernels have tiles for heads and rank."""
    if heads < 1 or width % heads or width // heads % 2:
        raise ValueError(
            f"{operation}: {heads} heads do not divide x's width {width} into an even width."
        )
    if not NARROWEST <= width // heads <= WIDEST:
        raise ValueError(
            f"{operation}: heads are {width // heads} wide ({width} / {heads}), but the kernel "
            f"takes {NARROWEST} to {WIDEST}; use torch's version."
        )
    if not 1 <= rank <= HIGHEST_RANK:
        raise ValueError(
            f"{operation}: t has rank {rank}, but the kernel takes 1 to {HIGHEST_RANK}; use "
            "torch's version."
        )


def validate_shapes(tensors: dict[str, Tensor], sizes: tuple[int, ...]) -> None:
    """Checks all shapes against those of x, t and source."""
    batch, count, width, keys, rank, half = sizes
    wanted = {
        "t": (batch, count, rank), "source": (batch, keys, width),
        "c_k": (batch, keys, rank), "c_v": (batch, keys, rank),
        "b_q": (rank, width), "b_k": (rank, width), "b_v": (rank, width), "a_o": (width, rank),
        "cos_q": (batch, count, half), "sin_q": (batch, count, half),
        "cos_k": (batch, keys, half), "sin_k": (batch, keys, half),
    }  # fmt: skip
    for name, shape in wanted.items():
        given = tuple(tensors[name].shape)
        shared = name.startswith(("cos", "sin")) and given == (1, *shape[1:])
        if given != shape and not shared:
            raise ValueError(
                f"lorra_attention: {name} is {list(given)}, but x, t, source and heads need "
                f"{list(shape)}."
            )


def validate_dtypes(operation: str, tensors: dict[str, Tensor]) -> None:
    """Checks dtypes and devices."""
    x = tensors["x"]
    if x.dtype not in DTYPES:
        raise ValueError(f"{operation}: x is {x.dtype}; give float16, bfloat16 or float32.")
    for name, tensor in tensors.items():
        wanted = torch.float32 if name.startswith(("cos", "sin")) else x.dtype
        if tensor.dtype != wanted:
            raise ValueError(
                f"{operation}: {name} is {tensor.dtype} and x is {x.dtype}; give it as {wanted}."
            )
        if tensor.device != x.device:
            raise ValueError(
                f"{operation}: {name} is on {tensor.device} but x is on {x.device}; move one "
                "of them."
            )
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(
            f"{operation}: x is on {x.device}, where Triton runs only with "
            "TRITON_INTERPRET=1; use torch's version."
        )
