"""What LoRRA attention refuses before it launches anything, with names and sizes."""

import torch
import triton
from torch import Tensor

from wings.kernels.key_ranges import KeyRanges

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NARROWEST, WIDEST, HIGHEST_RANK = 16, 256, 128


def refuse_misfits(tensors: dict[str, Tensor], heads: int, key_ranges: KeyRanges) -> None:
    """Raises a ValueError of one sentence where `lorra_attention` cannot be computed.

    Args:
        tensors: its tensors by name; `cos_q`, `sin_q`, `cos_k`, `sin_k` are those of the turns.
        heads, key_ranges: as it is given them.
    """
    for name in ("x", "t", "source"):
        if tensors[name].dim() != 3:
            raise ValueError(
                f"lorra_attention: {name} has {tensors[name].dim()} dimensions; give it as a "
                f"batch of rows of vectors, three."
            )
    (batch, count, width), rank = tensors["x"].shape, tensors["t"].shape[2]
    keys = tensors["source"].shape[1]
    refuse_widths(width, heads, rank)
    refuse_shapes(tensors, (batch, count, width, keys, rank, width // heads // 2))
    refuse_kinds(tensors)
    key_ranges.validate(batch, count, keys, tensors["x"].device)


def refuse_widths(width: int, heads: int, rank: int) -> None:
    """Heads that do not divide the width, or tiles that the kernels do not have."""
    if heads < 1 or width % heads or width // heads % 2:
        raise ValueError(
            f"lorra_attention: {heads} heads do not divide x's width {width} into an even width."
        )
    if not NARROWEST <= width // heads <= WIDEST:
        raise ValueError(
            f"lorra_attention: heads are {width // heads} wide ({width} / {heads}), the kernel "
            f"takes {NARROWEST} to {WIDEST}; use torch's version."
        )
    if not 1 <= rank <= HIGHEST_RANK:
        raise ValueError(
            f"lorra_attention: t has rank {rank}, the kernel takes 1 to {HIGHEST_RANK}; use "
            f"torch's version."
        )


def refuse_shapes(tensors: dict[str, Tensor], sizes: tuple[int, ...]) -> None:
    """Shapes that differ from what x, t and source ask for."""
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
                f"lorra_attention: {name} is {list(given)}, but x, t, source and heads ask for "
                f"{list(shape)}."
            )


def refuse_kinds(tensors: dict[str, Tensor]) -> None:
    """Types and devices that differ, or that the kernels cannot run on."""
    x = tensors["x"]
    if x.dtype not in DTYPES:
        raise ValueError(f"lorra_attention: x is {x.dtype}; give float16, bfloat16 or float32.")
    for name, tensor in tensors.items():
        wanted = torch.float32 if name.startswith(("cos", "sin")) else x.dtype
        if tensor.dtype != wanted:
            raise ValueError(
                f"lorra_attention: {name} is {tensor.dtype} and x is {x.dtype}; give it as "
                f"{wanted}."
            )
        if tensor.device != x.device:
            raise ValueError(
                f"lorra_attention: {name} is on {tensor.device} and x on {x.device}; put them on "
                f"one device."
            )
    if x.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"lorra_attention: x is on {x.device}, where Triton runs only with "
            f"TRITON_INTERPRET=1; use torch's version."
        )
