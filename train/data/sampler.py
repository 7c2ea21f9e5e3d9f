"""The order of samples: a shuffle that depends only on the seed and the epoch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


class RecordSampler(Sampler[int]):
    """Samples the record numbers of one epoch from several sources.

    A source of n records with weight w gives round(n * w) samples per epoch: whole passes, then a
    fresh random part of the records. A source with share s gives the fraction s of the epoch's
    samples, whatever its size; sources without a share set the length of the epoch. The epoch is
    padded to whole global batches with its own first samples. So every number of ranks and every
    split into micro-batches sees the same samples in each optimiser step.

    A source with a shuffle buffer can only be read forwards. Its records are shuffled within
    buffers, and an epoch continues where the last one ended. Its samples take random places among
    those of other sources.

    Args:
        lengths: records per source, numbered one source after the other.
        weights: passes over each source per epoch.
        batch_size: samples of one optimiser step over all ranks.
        seed: seed of every shuffle.
        shares: per source, its share of an epoch's samples instead of its weight, or None.
        shuffle_buffers: per source, records that are shuffled together, or None for all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        shares: Sequence[float | None] | None = None,
        shuffle_buffers: Sequence[int | None] | None = None,
    ) -> None:
        self.lengths = list(lengths)
        self.batch_size, self.seed = batch_size, seed
        self.shuffle_buffers = list(shuffle_buffers or [None] * len(self.lengths))
        self.counts = epoch_counts(lengths, weights, shares or [None] * len(self.lengths))
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(sum(self.counts) / self.batch_size) * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        parts, start = [], 0
        for n, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            if self.shuffle_buffers[n] is None:
                shuffles = [
                    torch.randperm(length, generator=generator)
                    for _ in range(math.ceil(count / length))
                ]
                parts.append(start + torch.cat(shuffles)[:count])
            else:
                parts.append(start + self._buffered(n))
            start += length
        chosen = torch.cat(parts)
        mixed = torch.randperm(len(chosen), generator=generator)
        chosen = chosen[mixed]
        begin = 0
        for n, count in enumerate(self.counts):
            if self.shuffle_buffers[n] is not None:
                places = (mixed >= begin) & (mixed < begin + count)
                chosen[places] = parts[n]
            begin += count
        repeats = math.ceil(len(self) / len(chosen))
        yield from chosen.repeat(repeats)[: len(self)].tolist()

    def _buffered(self, source: int) -> torch.Tensor:
        """This epoch's samples of a source that is read forwards, again and again."""
        length, count = self.lengths[source], self.counts[source]
        buffer = self.shuffle_buffers[source] or length
        position, end = self.epoch * count, (self.epoch + 1) * count
        parts = []
        while position < end:
            reading, inner = divmod(position, length)
            begin = inner - inner % buffer
            size = min(buffer, length - begin)
            # A generator per buffer: the start of an epoch must not change its shuffle.
            shuffle = np.random.default_rng([self.seed, source, reading, begin])
            part = begin + torch.from_numpy(shuffle.permutation(size))
            parts.append(part[inner - begin :][: end - position])
            position += len(parts[-1])
        return torch.cat(parts)


def epoch_counts(
    lengths: Sequence[int], weights: Sequence[float], shares: Sequence[float | None]
) -> list[int]:
    """Samples of an epoch per source, at least one each."""
    whole = sum(
        n * weight for n, weight, share in zip(lengths, weights, shares, strict=True) if not share
    )
    samples = whole / (1 - sum(share for share in shares if share))
    return [
        max(1, round(samples * share if share else n * weight))
        for n, weight, share in zip(lengths, weights, shares, strict=True)
    ]
