"""The budget of a run: what a GPU must hold, how many samples fit at once, what training costs."""

from dataclasses import dataclass
from functools import cached_property

import torch

from wings.train.param_groups import Row, lay_out
from wings.train.recipe import Recipe

from .fake_step import Batch, Rehearsal, Step
from .meta_model import Origin, all_alike, blocks_of

WAYS = ("ddp", "fsdp")
GIB = 2**30
# Of a card's memory, for the context, NCCL, the allocator's gaps: what no count of tensors sees.
KEPT_FREE = 0.08
# Where all blocks are alike, models of so many are rehearsed; the rest is a straight line.
FEW = (2, 3)


@dataclass(frozen=True)
class Group:
    """A parameter group in memory: `rate` None is frozen, `kind` the type its weights are held in.

    `count` is of weights.
    """

    name: str
    count: int
    rate: float | None
    kind: torch.dtype

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.count * self.kind.itemsize

    @property
    def gradients(self) -> int:
        """Bytes of the gradients, which have the type of the weights."""
        return self.weights if self.rate is not None else 0

    @property
    def optimiser(self) -> int:
        """Bytes of AdamW's two moments, float32."""
        return 8 * self.count if self.rate is not None else 0


@dataclass(frozen=True)
class Share:
    """What one GPU holds, in bytes; `extra` is gradient buckets (ddp) or gathered parts (fsdp)."""

    weights: float
    gradients: float
    optimiser: float
    extra: float

    @property
    def fixed(self) -> float:
        """All of it: what does not depend on the batch."""
        return self.weights + self.gradients + self.optimiser + self.extra


class Budget:
    """The budget of a recipe on `gpus` GPUs of `memory` GiB.

    Raises:
        WingsError: a configuration that cannot be had, or a recipe that does not fit its model.
    """

    def __init__(self, recipe: Recipe, origin: Origin, gpus: int, memory: float) -> None:
        self.recipe, self.origin, self.gpus = recipe, origin, gpus
        self.room = memory * GIB * (1 - KEPT_FREE)
        self.model = origin.build()
        rows = lay_out(self.model, recipe).rows
        self.types = {row.group: self._type(row) for row in rows}
        self.groups = [Group(r.group, r.count, r.rate, self.types[r.group]) for r in rows]
        self.largest_unit, self.root = self._units(rows)
        self._steps: dict[tuple, Step] = {}

    @property
    def rows(self) -> int:
        """Samples that one GPU takes at once, as the recipe says."""
        share = max(1, self.recipe.batch_size // self.gpus)
        return min(self.recipe.device_batch_size or share, share)

    @property
    def length(self) -> int:
        """Tokens of the longest sample."""
        return self.recipe.max_length

    def share(self, way: str) -> Share:
        """What one GPU holds beside activations."""
        weights = sum(group.weights for group in self.groups)
        gradients = sum(group.gradients for group in self.groups)
        optimiser = sum(group.optimiser for group in self.groups)
        if way == "ddp":
            # DDP sums gradients in buckets of its own, as many bytes again.
            return Share(weights, gradients, optimiser, gradients if self.gpus > 1 else 0)
        gpus = self.gpus
        return Share(weights / gpus, gradients / gpus, optimiser / gpus, self._gathered())

    def activations(self, way: str, rows: int, checkpointing: bool) -> float:
        """Bytes of a micro-batch of `rows` samples of full length, at the highest point."""
        return self.step(rows, checkpointing).peak(sharded=way == "fsdp")

    def largest(self, way: str, checkpointing: bool) -> int:
        """The most samples of full length that fit at once; 0 if not even one does."""
        room = self.room - self.share(way).fixed
        if self.activations(way, 1, checkpointing) > room:
            return 0
        low, high = 1, 2
        while high < 4096 and self.activations(way, high, checkpointing) <= room:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.activations(way, middle, checkpointing) <= room
            low, high = (middle, high) if fits else (low, middle)
        return low

    def flops_per_token(self, checkpointing: bool) -> float:
        """Of a full-length sample, forward and backward, with what is computed again."""
        batch, blocks = Batch(1, self.length), len(blocks_of(self.model))
        if not self._is_regular or blocks <= FEW[1]:
            return self._rehearsal(blocks).flops(batch, checkpointing) / self.length
        few, more = (self._rehearsal(n).flops(batch, checkpointing) for n in FEW)
        return (few + (more - few) * (blocks - FEW[0]) / (FEW[1] - FEW[0])) / self.length

    def logits(self) -> float:
        """Bytes at the highest point that are due to all text being trained, not one token."""
        few = self._rehearse(FEW[0], Batch(2, self.length, trained=1), False)
        all_of_it = self._rehearse(FEW[0], Batch(2, self.length), False)
        return (all_of_it.peak(False) - few.peak(False)) / 2 * self.rows

    def sources(self) -> float:
        """Bytes of the rows that learners attend to, kept once for all blocks."""
        config, batch = self.model.config, Batch(self.rows, self.length)
        images = batch.images(self.model) * config.image_seq_length
        count = {"image": images, "text": self.length - images}
        tokens = sum(count[name] for name in config.learners)
        width = 2 if self.recipe.bf16 else 4
        return self.rows * tokens * config.hidden_size * width

    def step(self, rows: int, checkpointing: bool) -> Step:
        """A micro-batch, of any number of samples: from two and three on in a straight line."""
        if rows > 3:
            two, three = self.step(2, checkpointing), self.step(3, checkpointing)
            return two.toward(three, rows - 2)
        batch, blocks = Batch(rows, self.length), len(blocks_of(self.model))
        if not self._is_regular or blocks <= FEW[1]:
            return self._rehearse(blocks, batch, checkpointing)
        few, more = (self._rehearse(n, batch, checkpointing) for n in FEW)
        return few.toward(more, (blocks - FEW[0]) / (FEW[1] - FEW[0]))

    @cached_property
    def _is_regular(self) -> bool:
        return all_alike(self.model)

    @cached_property
    def _rehearsals(self) -> dict[int, Rehearsal]:
        return {}

    def _rehearse(self, blocks: int, batch: Batch, checkpointing: bool) -> Step:
        key = blocks, batch, checkpointing
        if key not in self._steps:
            self._steps[key] = self._rehearsal(blocks).step(batch, checkpointing)
        return self._steps[key]

    def _rehearsal(self, blocks: int) -> Rehearsal:
        if blocks not in self._rehearsals:
            whole = blocks == len(blocks_of(self.model))
            model = self.origin.build(None if whole else blocks)
            rows = lay_out(model, self.recipe).rows
            self._rehearsals[blocks] = Rehearsal(model, rows, self.types, self.recipe.bf16)
        return self._rehearsals[blocks]

    def _type(self, row: Row) -> torch.dtype:
        # As `stage.prepare`, which looks at the weights: those that come in bfloat16 fit.
        exact = row.rate is None and self.recipe.bf16 and self.origin.dtype == torch.bfloat16
        return torch.bfloat16 if exact else torch.float32

    def _units(self, rows: list[Row]) -> tuple[tuple[int, bool], int]:
        """The largest part that is gathered as one, and whether it is trained; what is always."""
        trained = {id(p) for row in rows if row.rate is not None for p in row.parameters}
        taken: set[int] = set()
        sizes = []
        decoder = self.model.model.language_model
        parts = [*blocks_of(self.model), self.model.model.vision_tower]
        parts += [decoder.get_input_embeddings(), self.model.lm_head]
        for part in parts:
            own = [p for p in part.parameters() if id(p) not in taken]
            taken |= set(map(id, own))
            sizes.append((sum(p.numel() for p in own), any(id(p) in trained for p in own)))
        rest = sum(p.numel() for p in self.model.parameters() if id(p) not in taken)
        return max(sizes), rest

    def _gathered(self) -> float:
        # Two parts at once, as the next is fetched while one is used; a trained one's gradient is
        # whole before it is summed, and once more in float32 while it is.
        width = 2 if self.recipe.bf16 else 4
        size, trained = self.largest_unit
        return width * (2 * size + self.root) + (size * (width + 4) if trained else 0)
