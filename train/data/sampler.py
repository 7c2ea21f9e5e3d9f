"""The order of samples: a shuffle that depends on the seed and the epoch alone."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """Record numbers of one epoch, mixed from several sources.

    A source of n records with weight w gives round(n * w) samples an epoch: whole passes, and a
    fresh random part of the records for the rest. A source with a share s of the mixture gives s of
    the epoch's samples, whatever its size: the sources without one say how long the epoch is. The
    epoch is filled up to whole global batches with samples of its own beginning. So one process,
    several ranks and any split into accumulated micro-batches see the same samples in every
    optimiser step.

    A source with a window can only be read forwards: within it, records are shuffled in runs of
    that many, and an epoch that is no whole pass goes on where the last one ended. Where its
    samples stand among those of the others is as random as elsewhere.

    Args:
        lengths: records per source, numbered one source after the other.
        weights: passes per epoch over each source.
        batch_size: samples of one optimiser step over all ranks.
        seed: seed of every shuffle.
        shares: per source, its share of an epoch's samples in place of its weight, or None.
        windows: per source, records that are shuffled together, or None for all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        shares: Sequence[float | None] | None = None,
        windows: Sequence[int | None] | None = None,
    ) -> None:
        self.lengths = list(lengths)
        self.batch_size, self.seed = batch_size, seed
        self.windows = list(windows or [None] * len(self.lengths))
        self.counts = epoch_counts(lengths, weights, shares or [None] * len(self.lengths))
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(sum(self.counts) / self.batch_size) * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        parts, start = [], 0
        for n, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            if self.windows[n] is None:
                passes = [
                    torch.randperm(length, generator=generator)
                    for _ in range(math.ceil(count / length))
                ]
                parts.append(start + torch.cat(passes)[:count])
            else:
                parts.append(start + self._forwards(n))
            start += length
        chosen = torch.cat(parts)
        mixed = torch.randperm(len(chosen), generator=generator)
        chosen = chosen[mixed]
        begin = 0
        for n, count in enumerate(self.counts):
            if self.windows[n] is not None:
                places = (mixed >= begin) & (mixed < begin + count)
                chosen[places] = parts[n]
            begin += count
        repeats = math.ceil(len(self) / len(chosen))
        yield from chosen.repeat(repeats)[: len(self)].tolist()

    def _forwards(self, source: int) -> torch.Tensor:
        """This epoch's samples of a source with a window: a stretch of pass after pass over it."""
        length, count = self.lengths[source], self.counts[source]
        window = self.windows[source] or length
        position, end = self.epoch * count, (self.epoch + 1) * count
        runs = []
        while position < end:
            turn, inner = divmod(position, length)
            begin = inner - inner % window
            size = min(window, length - begin)
            # Of its own: where an epoch begins must not change how a run is shuffled.
            shuffle = np.random.default_rng([self.seed, source, turn, begin])
            run = begin + torch.from_numpy(shuffle.permutation(size))
            runs.append(run[inner - begin :][: end - position])
            position += len(runs[-1])
        return torch.cat(runs)


def epoch_counts(
    lengths: Sequence[int], weights: Sequence[float], shares: Sequence[float | None]
) -> list[int]:
    """Samples of an epoch per source, at least one: a tiny source is small, not absent."""
    whole = sum(
        n * weight for n, weight, share in zip(lengths, weights, shares, strict=True) if not share
    )
    samples = whole / (1 - sum(share for share in shares if share))
    return [
        max(1, round(samples * share if share else n * weight))
        for n, weight, share in zip(lengths, weights, shares, strict=True)
    ]
