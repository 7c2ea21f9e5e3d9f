"""`WingsCache`: the decoder's own cache, and beside it what the learners need of past tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from .config import WingsConfig
from .layout import Layout


@dataclass
class Pending:
    """Image rows that are known but whose tokens come in the next chunk of a prefill.

    rows: `[B, P, D]`; layout: `[B, P]`, kind `PADDING` where a row waits for fewer than P tokens.
    """

    rows: Tensor
    layout: Layout


class WingsCache(DynamicCache):
    """A `DynamicCache` that also keeps each token's layout, source row and 2 r numbers a block.

    The source row is the layer-0 embedding, one for all blocks; the numbers are its products with
    the first factors of keys and values (`LoRRALearner.compress`). So a token costs D + 2 r L
    numbers for learners, where a cache of whole keys and values would cost 2 D L. Beams, cropping
    and reordering act on both halves.
    """

    def __init__(self, config: WingsConfig) -> None:
        super().__init__(config=config.text_config)
        self.table: Tensor | None = None
        self.source: Tensor | None = None
        self.compressed: dict[int, Tensor] = {}
        self.pending: Pending | None = None
        self.has_images = self.is_packed = False
        self.has_learners = bool(config.learners)

    @property
    def layout(self) -> Layout | None:
        """Layout of all tokens so far, or None."""
        return None if self.table is None else Layout(self.table)

    @property
    def rows(self) -> Tensor | None:
        """Layer-0 embeddings of all tokens so far, `[B, S, D]`, or None."""
        return self.source

    def extend(self, layout: Layout, embeddings: Tensor, pending: Pending | None) -> None:
        """Takes in new tokens: their layout `[B, T]` and embeddings `[B, T, D]`."""
        self.table = grown(self.table, layout.table)
        # Without learners nobody reads source rows.
        self.source = grown(self.source, embeddings if self.has_learners else embeddings[..., :0])
        self.pending = pending

    def compressed_rows(self, layer: int) -> Tensor | None:
        """What block `layer` has kept so far, `[B, s, 2 r]` with s at most S, or None."""
        return self.compressed.get(layer)

    def keep(self, layer: int, numbers: Tensor) -> Tensor:
        """Appends `numbers [B, n, 2 r]` to block `layer` and returns all of its rows."""
        self.compressed[layer] = grown(self.compressed.get(layer), numbers)
        return self.compressed[layer]

    def reset(self) -> None:
        super().reset()
        self.table = self.source = self.pending = None
        self.compressed, self.has_images, self.is_packed = {}, False, False

    def crop(self, tokens_to_remove: int) -> None:
        length = 0 if self.table is None else self.table.shape[1]
        super().crop(tokens_to_remove)
        # Older releases of transformers take the length to keep, newer ones minus what to remove.
        keep = tokens_to_remove if tokens_to_remove > 0 else length + tokens_to_remove
        self._change(lambda rows: rows[:, :keep])
        if keep < length:
            # What waits for the next chunk follows a token that is gone.
            self.pending = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._change_batch(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._change_batch(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._change_batch(lambda rows: rows[indices.to(rows.device)])

    def _change_batch(self, how: Callable[[Tensor], Tensor]) -> None:
        self._change(how)
        if self.pending is not None:
            self.pending = Pending(how(self.pending.rows), Layout(how(self.pending.layout.table)))

    def _change(self, how: Callable[[Tensor], Tensor]) -> None:
        if self.table is not None:
            self.table, self.source = how(self.table), how(self.source)
        self.compressed = {layer: how(rows) for layer, rows in self.compressed.items()}


def grown(rows: Tensor | None, new: Tensor) -> Tensor:
    """`rows [B, S, n]` with `new [B, T, n]` behind them."""
    return new if rows is None else torch.cat([rows, new.to(rows.device)], dim=1)
