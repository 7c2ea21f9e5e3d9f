"""Block sizes of the kernels, by card and width: a table, never a search while a model runs."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Blocks:
    """Queries and keys per block, warps per program, stages of the load pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


# (kernel, compute capability's first digit or None for any card, widest head or rank in elements,
# bytes per element) -> blocks. The first row that fits is taken: narrow before wide.
TABLE: list[tuple[str, int | None, int, int, Blocks]] = [
    ("routed_attention", None, 256, 4, Blocks(32, 32, 4, 1)),
    ("routed_attention_queries", None, 256, 4, Blocks(32, 32, 4, 1)),
    ("routed_attention_keys", None, 256, 4, Blocks(32, 32, 4, 1)),
    ("turned_rows", None, 256, 4, Blocks(64, 64, 4, 1)),
    ("lorra_attention", None, 256, 4, Blocks(32, 32, 4, 1)),
    ("lorra_attention_queries", None, 256, 4, Blocks(32, 32, 4, 1)),
    ("lorra_attention_keys", None, 256, 4, Blocks(32, 32, 4, 1)),
]


def blocks_for(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """The blocks of `kernel` for tiles up to `width` wide."""
    card = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
    for name, of_card, widest, size, blocks in TABLE:
        fits = name == kernel and width <= widest and dtype.itemsize <= size
        if fits and of_card in (None, card):
            return blocks
    raise KeyError(f"{kernel} has no blocks for width {width} and {dtype}")
