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
    ("routed_attention", 9, 64, 2, Blocks(128, 128, 8, 3)),
    ("routed_attention", 9, 128, 2, Blocks(128, 128, 8, 2)),
    ("routed_attention", 9, 256, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention", None, 128, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention", None, 256, 2, Blocks(64, 32, 4, 2)),
    ("routed_attention", None, 256, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_queries", 9, 64, 2, Blocks(128, 128, 8, 2)),
    ("routed_attention_queries", 9, 128, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention_queries", 9, 256, 2, Blocks(128, 32, 8, 2)),
    ("routed_attention_queries", None, 64, 2, Blocks(128, 64, 8, 2)),
    ("routed_attention_queries", None, 128, 2, Blocks(64, 64, 4, 2)),
    ("routed_attention_queries", None, 256, 2, Blocks(32, 32, 8, 2)),
    ("routed_attention_queries", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_queries", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("routed_attention_keys", 9, 128, 2, Blocks(64, 128, 8, 2)),
    ("routed_attention_keys", 9, 256, 2, Blocks(32, 64, 8, 2)),
    ("routed_attention_keys", None, 64, 2, Blocks(64, 128, 8, 2)),
    ("routed_attention_keys", None, 128, 2, Blocks(32, 128, 8, 2)),
    ("routed_attention_keys", None, 256, 2, Blocks(32, 32, 8, 2)),
    ("routed_attention_keys", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("routed_attention_keys", None, 256, 4, Blocks(16, 16, 8, 1)),
    ("turned_rows", None, 128, 2, Blocks(64, 64, 4, 1)),
    ("turned_rows", None, 256, 2, Blocks(32, 32, 4, 1)),
    ("turned_rows", None, 256, 4, Blocks(16, 16, 4, 1)),
    ("lorra_attention", 9, 128, 2, Blocks(128, 64, 8, 3)),
    ("lorra_attention", 9, 256, 2, Blocks(128, 32, 8, 2)),
    ("lorra_attention", 8, 128, 2, Blocks(128, 64, 8, 2)),
    ("lorra_attention", 8, 256, 2, Blocks(64, 32, 8, 2)),
    ("lorra_attention", None, 128, 2, Blocks(64, 32, 4, 2)),
    ("lorra_attention", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention", None, 256, 4, Blocks(16, 16, 4, 1)),
    ("lorra_attention_queries", 9, 128, 2, Blocks(128, 64, 8, 3)),
    ("lorra_attention_queries", 9, 256, 2, Blocks(128, 32, 8, 2)),
    ("lorra_attention_queries", 8, 128, 2, Blocks(128, 32, 8, 2)),
    ("lorra_attention_queries", 8, 256, 2, Blocks(64, 32, 8, 2)),
    ("lorra_attention_queries", None, 128, 2, Blocks(64, 32, 4, 2)),
    ("lorra_attention_queries", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention_queries", None, 256, 4, Blocks(16, 16, 4, 1)),
    ("lorra_attention_keys", 9, 128, 2, Blocks(64, 128, 8, 3)),
    ("lorra_attention_keys", 9, 256, 2, Blocks(32, 64, 8, 2)),
    ("lorra_attention_keys", 8, 128, 2, Blocks(64, 64, 4, 2)),
    ("lorra_attention_keys", 8, 256, 2, Blocks(32, 64, 8, 2)),
    ("lorra_attention_keys", None, 128, 2, Blocks(32, 64, 4, 2)),
    ("lorra_attention_keys", None, 128, 4, Blocks(32, 32, 8, 1)),
    ("lorra_attention_keys", None, 256, 4, Blocks(16, 16, 4, 1)),
]


def blocks_for(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> Blocks:
    """The blocks of `kernel` for tiles up to `width` wide."""
    card = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
    for name, of_card, widest, size, blocks in TABLE:
        fits = name == kernel and width <= widest and dtype.itemsize <= size
        if fits and of_card in (None, card):
            return blocks
    raise KeyError(f"{kernel} has no blocks for width {width} and {dtype}")
