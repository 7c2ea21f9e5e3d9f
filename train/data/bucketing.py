"""Arranges samples into batches of similar length, so that little of a batch is padding."""

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch.utils.data import Sampler

from .lengths import EstimatedLength
from .sampler import RecordSampler

# Global batches that are arranged together. More would pad less and read further ahead.
MEGABATCH = 64


class BatchingSampler(Sampler[int]):
    """Rearranges the samples of a `RecordSampler` within every `MEGABATCH` global batches.

    Every global batch keeps `batch_size` samples. Which ones depends only on records, seed and
    epoch: not on ranks, workers or accumulation.

    `group`: samples with items of the same senses are sorted by length and cut into batches, which
    come in random order. Text alone is apart; so at most one batch of a megabatch mixes two kinds.

    `pack`: every global batch gets short and long samples, so that all have about the same number
    of tokens, and so have its halves, quarters, ... for ranks and accumulation.

    Args:
        sampler: the samples of every epoch.
        mode: `group` or `pack`.
        length: estimates the length of a record by its number.
    """

    def __init__(
        self,
        sampler: RecordSampler,
        mode: Literal["group", "pack"],
        length: Callable[[int], EstimatedLength],
    ) -> None:
        self.sampler, self.mode, self.length = sampler, mode, length

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        seed = (self.sampler.seed * 1_000_003 + self.sampler.epoch) * 1_000_003
        numbers = iter(self.sampler)
        for megabatch in itertools.count():
            taken = list(itertools.islice(numbers, MEGABATCH * self.sampler.batch_size))
            if not taken:
                return
            batches = self._batches(taken)
            generator = torch.Generator().manual_seed((seed + megabatch) % 2**63)
            for n in torch.randperm(len(batches), generator=generator).tolist():
                yield from batches[n]

    def _batches(self, numbers: list[int]) -> list[list[int]]:
        size = self.sampler.batch_size
        lengths = {number: self.length(number) for number in set(numbers)}
        if self.mode == "group":
            ordered = sorted(numbers, key=lambda n: (lengths[n].senses, lengths[n].tokens))
            return [ordered[start : start + size] for start in range(0, len(ordered), size)]
        tokens = {number: length.tokens for number, length in lengths.items()}
        batches = deal(numbers, tokens, len(numbers) // size)
        return [spread(batch, tokens) for batch in batches]


def deal(numbers: list[int], tokens: dict[int, float], parts: int) -> list[list[int]]:
    """Divide samples into parts with equally many samples and about as many tokens.

    In rounds from the longest samples to the shortest; in each, the shortest part gets the longest.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    ordered = sorted(numbers, key=lambda n: tokens[n], reverse=True)
    for start in range(0, len(ordered), parts):
        shortest_first = sorted(range(parts), key=lambda part: sums[part])
        for part, number in zip(shortest_first, ordered[start : start + parts], strict=False):
            dealt[part].append(number)
            sums[part] += tokens[number]
    return dealt


def spread(numbers: list[int], tokens: dict[int, float]) -> list[int]:
    """Order samples so that both halves, and recursively theirs, have about as many tokens."""
    if len(numbers) < 3:
        return numbers
    return [n for half in deal(numbers, tokens, 2) for n in spread(half, tokens)]
