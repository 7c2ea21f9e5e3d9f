"""Block sizes of the kernels by GPU and width, from a table: nothing is autotuned at run time."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton


@dataclass(frozen=True)
class Blocks:
    """Queries and keys per block, warps per program, stages of the load pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


# Kernel, major compute capability (None: any GPU), largest head width or rank, largest element size
# in bytes -> blocks. `blocks_for` takes the first row that fits. The blocks were chosen for shared
# memory and registers as the compiler reports them; they have not been timed on a GPU.
TABLE: list[tuple[str, int | None, int, int, Blocks]] = [
    ("routed_attention", 9, 64, 2, Blocks(128, 128, 8, 3)),
    ("routed_attention", 9, 128, 2, Blocks(128, 128, 8, 2)),
    ("routed_attention", 9, 256, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention", None, 128, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention", None, 256, 2, Blocks(64, 32, 4, 2)),
    ("routed_attention", None, 256, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_dq", 9, 64, 2, Blocks(128, 128, 8, 2)),
    ("routed_attention_dq", 9, 128, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention_dq", 9, 256, 2, Blocks(128, 32, 8, 2)),
    ("routed_attention_dq", None, 64, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention_dq", None, 128, 2, Blocks(64, 64, 4, 2)),
    ("routed_attention_dq", None, 256, 2, Blocks(32, 32, 8, 2)),
    ("routed_attention_dq", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_dq", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("routed_attention_dkv", 9, 128, 2, Blocks(32, 128, 8, 2)),
    ("routed_attention_dkv", 9, 256, 2, Blocks(32, 64, 8, 2)),
    ("routed_attention_dkv", None, 64, 2, Blocks(64, 128, 8, 2)),
    ("routed_attention_dkv", None, 128, 2, Blocks(64, 64, 8, 2)),
    ("routed_attention_dkv", None, 256, 2, Blocks(32, 32, 8, 2)),
    ("routed_attention_dkv", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_dkv", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("rope_rows", None, 128, 2, Blocks(64, 64, 4, 1)),
    ("rope_rows", None, 256, 2, Blocks(32, 32, 4, 1)),
    ("rope_rows", None, 256, 4, Blocks(16, 16, 4, 1)),
    ("lorra_attention", 9, 128, 2, Blocks(128, 64, 8, 3)),
    ("lorra_attention", 9, 256, 2, Blocks(32, 32, 8, 2)),
    ("lorra_attention", 8, 128, 2, Blocks(128, 64, 8, 2)),
    ("lorra_attention", 8, 256, 2, Blocks(64, 32, 8, 2)),
    ("lorra_attention", None, 128, 2, Blocks(64, 32, 4, 2)),
    ("lorra_attention", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("routed_decode", None, 128, 2, Blocks(16, 32, 4, 2)),
    ("routed_decode", None, 256, 2, Blocks(16, 16, 4, 2)),
    ("routed_decode", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("lorra_decode", None, 128, 2, Blocks(128, 32, 4, 2)),
    ("lorra_decode", None, 256, 2, Blocks(64, 32, 8, 2)),
    ("lorra_decode", None, 256, 4, Blocks(64, 16, 8, 1)),
    ("lorra_attention_dq", 9, 128, 2, Blocks(128, 64, 8, 3)),
    ("lorra_attention_dq", 9, 256, 2, Blocks(32, 32, 8, 2)),
    ("lorra_attention_dq", 8, 128, 2, Blocks(128, 32, 8, 2)),
    ("lorra_attention_dq", 8, 256, 2, Blocks(64, 32, 8, 2)),
    ("lorra_attention_dq", None, 128, 2, Blocks(64, 32, 4, 2)),
    ("lorra_attention_dq", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention_dq", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("lorra_attention_dkv", 9, 128, 2, Blocks(64, 128, 8, 3)),
    ("lorra_attention_dkv", 9, 256, 2, Blocks(32, 64, 8, 2)),
    ("lorra_attention_dkv", 8, 128, 2, Blocks(64, 64, 4, 2)),
    ("lorra_attention_dkv", 8, 256, 2, Blocks(32, 64, 8, 2)),
    ("lorra_attention_dkv", None, 128, 2, Blocks(32, 64, 4, 2)),
    ("lorra_attention_dkv", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention_dkv", None, 256, 4, Blocks(16, 16, 4, 1)),
]


# GPUs that load by descriptors, with their tensor memory accelerator (TMA): from this major
# compute capability on.
WITH_DESCRIPTORS = 9
_descriptors: ContextVar[bool] = ContextVar("descriptors", default=False)


@contextlib.contextmanager
def descriptor_loads() -> Iterator[None]:
    """Within it, kernels that can load keys and values by descriptors do.

    Compiled for capability 9.0 this takes fewer registers and no spills, but no GPU has timed it:
    the bench does, and until then it is off.
    """
    token = _descriptors.set(True)
    try:
        yield
    finally:
        _descriptors.reset(token)


def loads_by_descriptors(device: torch.device) -> bool:
    """Returns whether kernels on a device are to load by descriptors.

    Read it inside of an operator: older releases of torch cannot trace a context variable.
    """
    # Without a GPU the interpreter runs them.
    is_new = device.type != "cuda" or major_capability(device) >= WITH_DESCRIPTORS
    return is_new and _descriptors.get()


class Kind(NamedTuple):
    """Widest head or rank, dtype and device of tensors: the blocks of a kernel depend on them."""

    width: int
    dtype: torch.dtype
    device: torch.device


@torch.compiler.assume_constant_result
def major_capability(device: torch.device) -> int:
    """The generation of a GPU; a compiled graph is for one."""
    return torch.cuda.get_device_capability(device)[0]


def blocks_for(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """The blocks of a kernel for heads and ranks of up to `width`."""
    major = major_capability(device) if device.type == "cuda" else None
    for name, capability, widest, size, blocks in TABLE:
        fits = name == kernel and width <= widest and dtype.itemsize <= size
        if fits and capability in (None, major):
            return blocks
    raise KeyError(f"{kernel} has no blocks for width {width} and {dtype}")


# With fewer keys the products of a block no longer fill the tensor cores of one warp group.
FEWEST_KEYS = 64


@torch.compiler.assume_constant_result
def enough_programs(device: torch.device) -> int:
    """Programs that keep a GPU busy: about two for each multiprocessor; 0 without a GPU.

    With few programs the last ones run while most multiprocessors wait. More cost partial sums,
    or loads of the same queries again.
    """
    if device.type != "cuda":
        return 0
    return 15 * torch.cuda.get_device_properties(device).multi_processor_count // 8


def for_few_keys(blocks: Blocks, keys: int, columns: int, device: torch.device) -> Blocks:
    """Blocks of fewer keys, if a kernel over blocks of keys would leave a GPU idle.

    Args:
        blocks: of the table.
        keys: S, such as the tokens of one image.
        columns: programs that each block of keys has: rows of the batch times heads.
        device: of the tensors.
    """
    enough = enough_programs(device)
    while blocks.keys > FEWEST_KEYS and triton.cdiv(keys, blocks.keys) * columns < enough:
        blocks = Blocks(blocks.queries, blocks.keys // 2, blocks.warps, blocks.stages)
    return blocks
