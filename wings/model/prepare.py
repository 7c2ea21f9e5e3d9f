"""`WingsContext`: what the learners of every block need of one forward pass.

It rides through the decoder as the keyword `wings`, untouched by the decoder's own code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wings.attention.learner_mask import Visibility
from wings.attention.masks import Masks
from wings.attention.rotary import Rotary, Rotation
from wings.attention.source_tokens import Source
from wings.attention.token_layout import PADDING, Layout
from wings.cache.learner_cache import Memory
from wings.config import WingsConfig
from wings.kernels.key_ranges import KeyRanges
from wings.layers.router import Gates


class Record:
    """What blocks write down in a forward pass; one object, wherever a block runs."""

    def __init__(self) -> None:
        self.reached: set[int] = set()
        self.gates: dict[int, Tensor] = {}


@dataclass(frozen=True)
class Terms:
    """What a caller and a model ask of every block.

    way: how the operations run. plain_masks: whether the decoder masks nothing but the future,
    padding, other sequences and what lies before a window. with_attentions: whether the main
    attention's weights are asked for. remakes: whether a backward makes a learner's keys and values
    again, which gradient checkpointing does on its own.
    """

    way: str
    plain_masks: bool
    with_attentions: bool
    remakes: bool


class WingsContext:
    """One forward pass.

    queries: layout of the T new tokens. tokens: layout of all tokens the main attention may see.
    active: False where learners have nothing to do. packed: whether a row holds several sequences.
    memory: what blocks keep for later passes, None without a cache. is_first: whether no tokens
    came before. Of an active pass also rotation: of the new tokens; sources: per learner, None
    where no row is in the batch; gates: of the learners; acts: `[B, T]` bool, what the text guard
    lets, or None.
    """

    rotation: Rotation
    gates: Gates

    def __init__(
        self,
        queries: Layout,
        tokens: Layout,
        active: bool,
        packed: bool,
        memory: Memory | None,
        terms: Terms,
        is_first: bool,
    ) -> None:
        self.is_first = is_first
        self.queries, self.tokens = queries, tokens
        self.active, self.packed = active, packed
        self.memory, self.terms = memory, terms
        self.sources: dict[str, Source | None] = {}
        self.acts: Tensor | None = None
        self.record, self.masks = Record(), Masks()
        self._keys: dict[int, Layout] = {}
        self._runs: dict[tuple[int, int | None], KeyRanges | None] = {}

    @classmethod
    def build(
        cls,
        config: WingsConfig,
        rotary: Rotary,
        queries: Layout,
        embeddings: Tensor,
        memory: Memory | None,
        later: tuple[Layout, Tensor] | None,
        has_pictures: bool,
        active: bool,
        packed: bool,
        terms: Terms,
    ) -> "WingsContext":
        """Prepares a pass over `embeddings [B, T, D]`, which `memory` takes in.

        `later`: layout and features `[B, P, D]` of image tokens that come in the next chunk.
        """
        continued = memory is not None and memory.layout is not None
        # Without a cache the same steps run on a memory that nobody keeps.
        taken = Memory(config.learners) if memory is None else memory
        extra = later and (later[0], source_rows(config, later[1]))
        rows = source_rows(config, embeddings)
        tokens = taken.take(queries, rows, extra, rotary, active, has_pictures)
        context = cls(queries, tokens, active, packed, memory, terms, not continued)
        if not active:
            return context
        context.rotation = rotary.at(queries.position, embeddings.dtype)
        for name, kept in taken.sources.items():
            source = None
            if kept.rows.buffer is not None:
                keys = Layout(kept.keys.all)
                visibility = Visibility(queries, keys, continued)
                source = Source(keys, kept.rows.all, Rotation(kept.turns.all), visibility)
                source.memory = None if memory is None else kept
                source.remakes = terms.remakes and memory is None
            context.sources[name] = source
        nothing = torch.zeros_like(queries.sees_image)
        visible = [
            nothing if source is None else source.visibility.sees_any
            for source in context.sources.values()
        ]
        context.gates = Gates(torch.stack(visible, dim=-1))
        if config.text_guard:
            context.acts = queries.sees_image
        return context

    def main_keys(self, count: int) -> Layout:
        """Layout of the `count` keys of a main attention; a sliding cache has dropped the first."""
        if count not in self._keys:
            table = self.tokens.table
            held = len(self.tokens) if self.memory is None else self.memory.tokens
            if isinstance(held, int):
                table = table[:, -count:]
            elif count < len(self.tokens):
                # A static cache fills its room from the front, and only then drops the first.
                start = (held - count).clamp(min=0)
                where = start + torch.arange(count, device=table.device)
                table = table.index_select(1, where)
            self._keys[count] = Layout(table)
        return self._keys[count]

    def runs(self, count: int, window: int | None) -> KeyRanges | None:
        """What the new tokens see of the `count` keys of a main attention, as runs.

        None where the decoder masks in a way of its own, where a run would have padding in it, and
        in the middle of a static cache.
        """
        is_fixed = self.memory is not None and isinstance(self.memory.tokens, Tensor)
        if not self.terms.plain_masks or (is_fixed and count != len(self.queries)):
            return None
        if (count, window) not in self._runs:
            keys, length = self.main_keys(count), len(self.queries)
            slot = torch.arange(count - length, count, device=keys.table.device)
            end = (slot + 1).expand(len(keys.table), -1)
            segments = keys.segment.contiguous(), self.queries.segment.contiguous()
            first = torch.searchsorted(*segments)
            if window is not None:
                first = torch.maximum(first, end - window)
            blind = self.queries.kind == PADDING
            first, end = first.masked_fill(blind, 0), end.masked_fill(blind, 0)
            padding = torch.nn.functional.pad((keys.kind == PADDING).long().cumsum(1), (1, 0))
            gaps = padding.gather(1, end) > padding.gather(1, first.clamp(max=count))
            self._runs[count, window] = None if bool(gaps.any()) else KeyRanges(first, end, count)
        return self._runs[count, window]

    def to(self, device: torch.device, **_: bool) -> "WingsContext":
        """A copy on `device` that shares the memory and the record; itself where it is there."""
        if self.queries.table.device == torch.device(device):
            return self
        moved = WingsContext(
            self.queries.to(device), self.tokens.to(device), self.active, self.packed, self.memory,
            self.terms, self.is_first,
        )  # fmt: skip
        moved.record = self.record
        if self.active:
            moved.acts = None if self.acts is None else self.acts.to(device)
            moved.rotation = self.rotation.to(device)
            moved.gates = self.gates.to(device)
            moved.sources = {
                name: None if source is None else source.to(device)
                for name, source in self.sources.items()
            }
        return moved


def source_rows(config: WingsConfig, embeddings: Tensor) -> Tensor:
    """What learners attend to of layer-0 embeddings, `[B, T, D]`."""
    if not config.normalize_sources:
        return embeddings
    return torch.nn.functional.rms_norm(embeddings, embeddings.shape[-1:], eps=1e-6)
