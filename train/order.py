"""The order of samples: a shuffle that depends on the seed and the epoch alone."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """Record numbers of one epoch, mixed from several sources.

    A source of n records with weight w gives round(n * w) samples an epoch: whole passes, and a
    fresh random part of the records for the rest. The epoch is filled up to whole global batches
    with samples of its own beginning. So one process, several ranks and any split into accumulated
    micro-batches see the same samples in every optimiser step.

    Args:
        lengths: records per source, numbered one source after the other.
        weights: passes per epoch over each source.
        batch_size: samples of one optimiser step over all ranks.
        seed: seed of every shuffle.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], batch_size: int, seed: int
    ) -> None:
        self.lengths, self.weights = list(lengths), list(weights)
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0
        # At least one sample: a source with a tiny weight is small, not absent.
        self.counts = [
            max(1, round(n * w)) for n, w in zip(self.lengths, self.weights, strict=True)
        ]

    def __len__(self) -> int:
        return math.ceil(sum(self.counts) / self.batch_size) * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        parts, start = [], 0
        for length, count in zip(self.lengths, self.counts, strict=True):
            passes = [
                torch.randperm(length, generator=generator)
                for _ in range(math.ceil(count / length))
            ]
            parts.append(start + torch.cat(passes)[:count])
            start += length
        chosen = torch.cat(parts)
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        repeats = math.ceil(len(self) / len(chosen))
        yield from chosen.repeat(repeats)[: len(self)].tolist()
