"""`WingsContext`: what the learners of every block need of one forward pass.

It rides through the decoder as the keyword `wings`, untouched by the decoder's own code.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .cache import WingsCache
from .config import WingsConfig
from .layout import KINDS, PADDING, Layout
from .rotary import Rotation, count_heads, rotary_base
from .visible_attention import Visibility


@dataclass
class Source:
    """The rows of one modality, gathered from all tokens: `order [B, n]`, `rows [B, n, D]`."""

    order: Tensor
    rows: Tensor
    rotation: Rotation
    visibility: Visibility


@dataclass
class Record:
    """What blocks write down in a forward pass; one object, wherever a block runs."""

    reached: set[int] = field(default_factory=set)
    gates: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class WingsContext:
    """One forward pass.

    queries: layout of the T new tokens. tokens: layout of all S tokens the main attention may
    see. known: those and P image rows that are already known though their tokens come in a later
    chunk. rows: `[B, S + P, D]`, layer-0 embeddings of the known tokens. sources: per learner,
    None where no row is in the batch. active: False where learners have nothing to do. packed:
    whether a row holds several sequences. cache: None without decoding.
    """

    queries: Layout
    tokens: Layout
    known: Layout
    rows: Tensor
    active: bool
    packed: bool
    acts: Tensor | None = None
    rotation: Rotation | None = None
    sources: dict[str, Source | None] = field(default_factory=dict)
    visible: Tensor | None = None
    cache: WingsCache | None = None
    with_attentions: bool = False
    record: Record = field(default_factory=Record)

    @classmethod
    def build(
        cls,
        config: WingsConfig,
        queries: Layout,
        embeddings: Tensor,
        cache: WingsCache | None,
        active: bool,
        packed: bool,
        with_attentions: bool,
    ) -> "WingsContext":
        """Prepares a pass over `embeddings [B, T, D]`, which `cache` has already taken in."""
        tokens, rows, known = queries, embeddings, queries
        if cache is not None:
            tokens, rows = cache.layout, cache.rows
            known = tokens
            if cache.pending is not None:
                known = Layout(torch.cat([tokens.table, cache.pending.layout.table], dim=1))
                rows = torch.cat([rows, cache.pending.rows.to(rows)], dim=1)
        context = cls(queries, tokens, known, rows, active, packed, cache=cache)
        context.with_attentions = with_attentions
        if active:
            context._prepare(config)
        return context

    def _prepare(self, config: WingsConfig) -> None:
        known = self.known
        heads = count_heads(config.hidden_size, config.text_config.num_attention_heads)
        turn = (config.hidden_size // heads, rotary_base(config.text_config), self.rows.dtype)
        continued = len(self.known) > len(self.queries)
        if config.normalize_sources:
            self.rows = torch.nn.functional.rms_norm(self.rows, self.rows.shape[-1:], eps=1e-6)
        self.rotation = Rotation(self.queries.position, *turn)
        visible = []
        for name in config.learners:
            kind = KINDS[name]
            is_source = known.kind == kind
            count = int(is_source.sum(1).max())
            self.sources[name] = None
            if count:
                order = torch.argsort((~is_source).long(), dim=1, stable=True)[:, :count]
                keys = known.gather(order)
                keys.table[..., 3].masked_fill_(keys.kind != kind, PADDING)
                rows = self.rows.gather(1, order[..., None].expand(-1, -1, self.rows.shape[-1]))
                visibility = Visibility(self.queries, keys, continued)
                self.sources[name] = Source(order, rows, Rotation(keys.position, *turn), visibility)
            visible.append(self._sees(kind))
        self.visible = torch.stack(visible, dim=-1)
        if config.text_guard:
            self.acts = self.queries.sees_image

    def _sees(self, kind: int) -> Tensor:
        """`[B, T]` bool: tokens that see at least one row of `kind`."""
        if kind == KINDS["image"]:
            return self.queries.sees_image
        # The first text token of each sequence is the first to be seen.
        known, never = self.known, torch.iinfo(torch.long).max
        real = self.queries.kind != PADDING
        first = torch.where(known.kind == kind, known.position, never)
        seen = torch.zeros_like(real)
        for segment in known.segment.unique():
            inside = torch.where(known.segment == segment, first, never)
            begins = inside.min(1, keepdim=True).values
            seen |= (self.queries.segment == segment) & (self.queries.position >= begins)
        return seen & real

    def main_keys(self, count: int) -> Layout:
        """Layout of the `count` keys of a main attention; a sliding cache has dropped the first."""
        return Layout(self.tokens.table[:, -count:])

    def kinds(self, start: int, count: int, name: str) -> Tensor:
        """`[B, count]` bool: which of the known tokens from `start` on are of learner `name`."""
        return self.known.kind[:, start : start + count] == KINDS[name]

    def to(self, device: torch.device, **_: bool) -> "WingsContext":
        """A copy on `device` that shares the cache and the record; itself where it is there."""
        if self.rows.device == torch.device(device):
            return self
        moved = WingsContext(
            self.queries.to(device), self.tokens.to(device), self.known.to(device),
            self.rows.to(device), self.active,
            self.packed, cache=self.cache, with_attentions=self.with_attentions, record=self.record,
        )  # fmt: skip
        if self.active:
            moved.acts = None if self.acts is None else self.acts.to(device)
            moved.rotation = self.rotation.to(device)
            moved.visible = self.visible.to(device)
            moved.sources = {
                name: source
                and Source(
                    source.order.to(device), source.rows.to(device), source.rotation.to(device),
                    source.visibility.to(device),
                )
                for name, source in self.sources.items()
            }  # fmt: skip
        return moved
