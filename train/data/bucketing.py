"""Batching: which samples of an order meet in a batch, so that little of it is padding."""

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch.utils.data import Sampler

from .lengths import Length
from .sampler import Order

# Global batches that are arranged together. More would pad less and read further ahead.
WINDOW = 64


class Batching(Sampler[int]):
    """The samples of an `Order`, rearranged within windows of `WINDOW` global batches.

    Every global batch keeps `batch_size` samples, and which ones depends on the records, the seed
    and the epoch alone: not on ranks, workers or accumulation.

    `group`: samples with images and without apart, sorted by length, cut into batches; the batches
    come in random order. Padding is small, and a batch is text alone or pictures alone but for one
    a window.

    `pack`: every global batch gets short and long samples so that all hold about the same number of
    tokens, and so do its halves, quarters, ... which ranks and accumulation take.

    Args:
        order: the samples of every epoch.
        way: `group` or `pack`.
        length: of a record, by its number.
    """

    def __init__(
        self, order: Order, way: Literal["group", "pack"], length: Callable[[int], Length]
    ) -> None:
        self.order, self.way, self.length = order, way, length

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        seed = (self.order.seed * 1_000_003 + self.order.epoch) * 1_000_003
        numbers = iter(self.order)
        for window in itertools.count():
            taken = list(itertools.islice(numbers, WINDOW * self.order.batch_size))
            if not taken:
                return
            batches = self._batches(taken)
            generator = torch.Generator().manual_seed((seed + window) % 2**63)
            for n in torch.randperm(len(batches), generator=generator).tolist():
                yield from batches[n]

    def _batches(self, numbers: list[int]) -> list[list[int]]:
        size = self.order.batch_size
        lengths = {number: self.length(number) for number in set(numbers)}
        if self.way == "group":
            ordered = sorted(numbers, key=lambda n: (lengths[n].images > 0, lengths[n].tokens))
            return [ordered[start : start + size] for start in range(0, len(ordered), size)]
        tokens = {number: length.tokens for number, length in lengths.items()}
        batches = deal(numbers, tokens, len(numbers) // size)
        return [spread(batch, tokens) for batch in batches]


def deal(numbers: list[int], tokens: dict[int, float], hands: int) -> list[list[int]]:
    """Deal samples out into as many hands, each with as many of them and about as many tokens.

    In rounds from the longest samples to the shortest; in each, who has least gets the longest.
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    sums = [0.0] * hands
    ordered = sorted(numbers, key=lambda n: tokens[n], reverse=True)
    for start in range(0, len(ordered), hands):
        turn = sorted(range(hands), key=lambda hand: sums[hand])
        for hand, number in zip(turn, ordered[start : start + hands], strict=False):
            dealt[hand].append(number)
            sums[hand] += tokens[number]
    return dealt


def spread(numbers: list[int], tokens: dict[int, float]) -> list[int]:
    """Samples in an order whose halves, and the halves of those, hold about as many tokens."""
    if len(numbers) < 3:
        return numbers
    return [n for half in deal(numbers, tokens, 2) for n in spread(half, tokens)]
