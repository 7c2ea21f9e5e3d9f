"""Estimates the memory, largest batch, FLOPs and tokens of a run from its recipe."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from wings.errors import WingsError
from wings.train.build import load_processor
from wings.train.data.dataset import ConversationDataset
from wings.train.distributed import blocks_of, encoders_of
from wings.train.metrics.flops import encoder_flops
from wings.train.param_groups import ParamGroup, plan_groups
from wings.train.recipe import Recipe
from wings.train.start import readable_recipe

from .fake_step import FakeBatch, FakeStepRunner, StepMemory
from .meta_model import ModelSpec, all_alike

PARALLEL_MODES = ("ddp", "fsdp")
GIB = 2**30
# Share of GPU memory left for the CUDA context, NCCL and allocator gaps, which are not estimated.
KEPT_FREE = 0.08
# If all blocks are alike, models with this many blocks run and the rest is extrapolated.
FEW = (2, 3)
# Samples that are encoded to estimate the mean length.
MEASURED_SAMPLES = 128


@dataclass(frozen=True)
class GroupMemory:
    """Memory of one parameter group.

    count: number of weights. rate: learning rate, None if frozen. kind: dtype of the weights.
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
        """Bytes of the gradients, which have the dtype of the weights."""
        return self.weights if self.rate is not None else 0

    @property
    def optimiser(self) -> int:
        """Bytes of AdamW's two moments, float32."""
        return 8 * self.count if self.rate is not None else 0


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one GPU; `extra` is gradient buckets (ddp) or gathered parts (fsdp)."""

    weights: float
    gradients: float
    optimiser: float
    extra: float

    @property
    def fixed(self) -> float:
        """The sum, which does not depend on the batch."""
        return self.weights + self.gradients + self.optimiser + self.extra


class Budget:
    """The estimate of a recipe on `gpus` GPUs with `memory` GiB each.

    Raises:
        WingsError: an unavailable configuration, or a recipe that does not fit its model.
    """

    def __init__(self, recipe: Recipe, spec: ModelSpec, gpus: int, memory: float) -> None:
        self.recipe, self.spec, self.gpus = recipe, spec, gpus
        self.room = memory * GIB * (1 - KEPT_FREE)
        self.model = spec.build()
        groups = plan_groups(self.model, recipe).groups
        self.types = {group.name: self._type(group) for group in groups}
        self.groups = [GroupMemory(g.name, g.count, g.rate, self.types[g.name]) for g in groups]
        self.largest_unit, self.root = self._units(groups)
        self._steps: dict[tuple, StepMemory] = {}
        self._runners: dict[int, FakeStepRunner] = {}

    @property
    def rows(self) -> int:
        """Samples per forward on one GPU."""
        share = max(1, self.recipe.batch_size // self.gpus)
        return min(self.recipe.device_batch_size or share, share)

    @property
    def length(self) -> int:
        """Tokens of the longest sample."""
        return self.recipe.max_length

    def device_memory(self, parallel: str) -> DeviceMemory:
        """Memory of one GPU without activations."""
        gpus = self.gpus
        weights = sum(group.weights for group in self.groups)
        gradients = sum(group.gradients for group in self.groups)
        optimiser = sum(group.optimiser for group in self.groups)
        if parallel == "ddp":
            # DDP reduces gradients in buckets of the same total size.
            return DeviceMemory(weights, gradients, optimiser, gradients if gpus > 1 else 0)
        return DeviceMemory(weights / gpus, gradients / gpus, optimiser / gpus, self._gathered())

    def activations(self, parallel: str, rows: int, checkpointing: bool) -> float:
        """Peak bytes of a micro-batch of `rows` samples of full length."""
        return self.step(rows, checkpointing).peak(sharded=parallel == "fsdp")

    def largest(self, parallel: str, checkpointing: bool) -> int:
        """Most samples of full length that fit on a GPU at once; 0 if none does."""
        room = self.room - self.device_memory(parallel).fixed
        # One sample, which takes a step of its own, is tried only where two do not fit.
        low, high = 0, 2
        while high < 4096 and self.activations(parallel, high, checkpointing) <= room:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.activations(parallel, middle, checkpointing) <= room
            low, high = (middle, high) if fits else (low, middle)
        return low

    def flops_per_token(self, checkpointing: bool) -> float:
        """FLOPs of a full-length sample per token, forward and backward, with recomputation."""
        batch, blocks = FakeBatch(1, self.length), len(blocks_of(self.model))
        if not self._is_regular or blocks <= FEW[1]:
            return self._runner(blocks).flops(batch, checkpointing) / self.length
        few, more = (self._runner(n).flops(batch, checkpointing) for n in FEW)
        return (few + (more - few) * (blocks - FEW[0]) / (FEW[1] - FEW[0])) / self.length

    def encoder_flops(self) -> dict[str, float]:
        """FLOPs of one item in the encoder of each sense, of which one fits into a sample."""
        return {
            sense.name: encoder_flops(self.model.model.encoder(sense))
            for sense in FakeBatch(1, self.length).senses(self.model)
        }

    def encoder_shares(self, tokens: float) -> dict[str, float]:
        """Shares of the FLOPs of a sample of so many tokens, with one item of each sense."""
        encoders = self.encoder_flops()
        whole = self.flops_per_token(self.recipe.gradient_checkpointing) * self.length
        without = (whole - sum(encoders.values())) / self.length * tokens
        return {
            name: flops / (without + sum(encoders.values())) for name, flops in encoders.items()
        }

    def item_bytes(self) -> dict[str, int]:
        """Bytes of the float32 features of one item of each sense."""
        senses = self.model.config.senses.values()
        encoders = {sense.name: self.model.model.encoder(sense) for sense in senses}
        return {name: 4 * one.seq_length * one.hidden_size for name, one in encoders.items()}

    def optimiser_traffic(self) -> float:
        """Bytes that AdamW reads and writes on one GPU in a step.

        A float32 weight and two moments are read and written, and a gradient is read.
        """
        trained = sum(group.count for group in self.groups if group.rate is not None)
        return 7 * 4 * trained / (self.gpus if self.recipe.parallel == "fsdp" else 1)

    def logits(self) -> float:
        """Bytes that the peak gains because all text is trained and not one token."""
        first = self._first_like(self.rows)
        rows = min(self.rows, first) if self._in_chunks(self.rows) else 2
        few = self._fake_step(FEW[0], FakeBatch(rows, self.length, trained=1), False)
        full = self._fake_step(FEW[0], FakeBatch(rows, self.length), False)
        gained = full.peak(False) - few.peak(False)
        # In chunks it is the same for more samples.
        return gained if self._in_chunks(self.rows) else gained / rows * self.rows

    def sources(self) -> float:
        """Bytes of the source tokens of the learners, stored once for all blocks."""
        config, batch = self.model.config, FakeBatch(self.rows, self.length)
        count = batch.tokens(self.model)
        count["text"] = self.length - sum(count.values())
        # The learners of one kind of token share its sources, whatever their sense.
        kinds = {name for sense in config.senses.values() for name in sense.learners}
        tokens = sum(count[name] for name in kinds)
        width = 2 if self.recipe.bf16 else 4
        return self.rows * tokens * config.hidden_size * width

    def step(self, rows: int, checkpointing: bool) -> StepMemory:
        """Peak memory of a micro-batch; extrapolated from two smaller ones for most sizes."""
        first = self._first_like(rows)
        if rows > first + 1:
            less, more = self.step(first, checkpointing), self.step(first + 1, checkpointing)
            return less.extrapolate(more, rows - first)
        batch, blocks = FakeBatch(rows, self.length), len(blocks_of(self.model))
        if not self._is_regular or blocks <= FEW[1]:
            return self._fake_step(blocks, batch, checkpointing)
        few, more = (self._fake_step(n, batch, checkpointing) for n in FEW)
        return few.extrapolate(more, (blocks - FEW[0]) / (FEW[1] - FEW[0]))

    def _first_like(self, rows: int) -> int:
        """The fewest samples, at least two, whose loss is in chunks if that of `rows` is."""
        if not self._in_chunks(rows):
            return 2
        tokens = FakeBatch(1, self.length).text(self.model)
        return max(2, (self.recipe.chunk_of_loss or 0) // tokens + 1)

    def _in_chunks(self, rows: int) -> bool:
        """Returns whether the loss of so many samples is in chunks."""
        chunk = self.recipe.chunk_of_loss
        tokens = rows * FakeBatch(1, self.length).text(self.model)
        return chunk is not None and tokens > chunk

    @cached_property
    def _is_regular(self) -> bool:
        return all_alike(self.model)

    def _fake_step(self, blocks: int, batch: FakeBatch, checkpointing: bool) -> StepMemory:
        key = blocks, batch, checkpointing
        if key not in self._steps:
            self._steps[key] = self._runner(blocks).step(batch, checkpointing)
        return self._steps[key]

    def _runner(self, blocks: int) -> FakeStepRunner:
        if blocks not in self._runners:
            whole = blocks == len(blocks_of(self.model))
            model = self.spec.build(None if whole else blocks)
            groups = plan_groups(model, self.recipe).groups
            self._runners[blocks] = FakeStepRunner(
                model, groups, self.types, self.recipe.bf16, self.recipe.chunk_of_loss
            )
        return self._runners[blocks]

    def _type(self, group: ParamGroup) -> torch.dtype:
        # As `prepare_groups`, which reads the weights: those stored in bfloat16 are exact.
        exact = group.rate is None and self.recipe.bf16 and self.spec.dtype == torch.bfloat16
        return torch.bfloat16 if exact else torch.float32

    def _units(self, groups: list[ParamGroup]) -> tuple[tuple[int, bool], int]:
        """The largest part that FSDP gathers and whether it is trained; the always gathered."""
        trained = {id(p) for group in groups if group.rate is not None for p in group.parameters}
        taken: set[int] = set()
        sizes = []
        decoder = self.model.model.language_model
        parts = [*blocks_of(self.model), *encoders_of(self.model)]
        parts += [decoder.get_input_embeddings(), self.model.lm_head]
        for part in parts:
            new = [p for p in part.parameters() if id(p) not in taken]
            taken |= set(map(id, new))
            sizes.append((sum(p.numel() for p in new), any(id(p) in trained for p in new)))
        rest = sum(p.numel() for p in self.model.parameters() if id(p) not in taken)
        return max(sizes), rest

    def _gathered(self) -> float:
        # Two parts at once: FSDP prefetches the next one. The gradient of a trained part exists
        # whole before the reduction, and again in float32 during it.
        width = 2 if self.recipe.bf16 else 4
        size, trained = self.largest_unit
        return width * (2 * size + self.root) + (size * (width + 4) if trained else 0)


@dataclass(frozen=True)
class EpochEstimate:
    """Samples and tokens of one epoch.

    Attributes:
        drawn: samples that the sources give.
        samples: the same in whole batches; the last one is filled up with the first samples.
        mean: mean tokens of the samples that were encoded.
        measured: number of those.
        epochs: of the whole run, a fraction if the recipe sets `steps`.
        seconds: in which one process read and encoded a sample, on average.
        why: a sentence if all of this is unknown.
    """

    drawn: int = 0
    samples: int = 0
    mean: float = 0.0
    measured: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    why: str = ""

    @property
    def tokens(self) -> float | None:
        """Tokens of an epoch with images and without padding; None if unknown."""
        return None if self.why else self.samples * self.mean

    @classmethod
    def of(cls, recipe: Recipe, file: Path | None = None) -> "EpochEstimate":
        """Read the data of a recipe, if it and the tokeniser are available.

        Args:
            recipe: the recipe.
            file: file of the recipe; see `readable_recipe`.
        """
        try:
            data = ConversationDataset.of(recipe, None)
            data.processor = load_processor(readable_recipe(recipe, file)[0])
        except WingsError as error:
            return cls(why=f"the data was not read: {error}")
        except (OSError, ValueError) as error:
            return cls(why=f"the tokeniser is not available: {str(error).splitlines()[0]}")
        sampler = data.sampler(recipe.batch_size, recipe.seed)
        try:
            chosen = list(sampler)[:MEASURED_SAMPLES]
            begun = time.perf_counter()
            lengths = [len(data[number]["input_ids"]) for number in chosen]
        except WingsError as error:
            return cls(why=f"the data cannot be read: {error}")
        epochs = recipe.epochs
        if recipe.steps is not None:
            epochs = recipe.steps * recipe.batch_size / len(sampler)
        mean, seconds = sum(lengths) / len(lengths), (time.perf_counter() - begun) / len(lengths)
        return cls(sum(sampler.counts), len(sampler), mean, len(lengths), epochs, seconds)
