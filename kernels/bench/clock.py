"""`Clock`: interleaved repeats of several calls, so that what a machine does meanwhile hits all."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

Calls = dict[str, Callable[[], object]]
# Writing so much leaves nothing of the last call in a card's cache, and takes longer than the host
# needs to queue the next.
FLUSHED = 2**30
FEWEST = 4


@dataclass
class Timing:
    """Seconds of one call in every round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Timing") -> tuple[float, float, float]:
        """This time in units of the other's: median of the rounds' ratios, and its quartiles.

        Two calls of one round stand close in time, so a machine that slows down for a while slows
        both.
        """
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(ratios), *quartiles(ratios)


def quartiles(numbers: list[float]) -> tuple[float, float]:
    """First and third; the number itself where there is only one."""
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    first, _, third = statistics.quantiles(numbers, n=4, method="inclusive")
    return first, third


def orders(names: list[str]) -> Iterator[list[str]]:
    """Random orders without end, each followed by itself backwards.

    What ran just before leaves its traces in caches, so each stands behind each; and in two rounds
    together each comes as early as late, so that a machine that slows down favours none.
    """
    shuffle = random.Random(0).shuffle
    while True:
        order = list(names)
        shuffle(order)
        yield order
        yield order[::-1]


class Clock:
    """Times calls on `device` in rounds of one call each: `rounds`, or fewer for some `seconds`.

    `whole`: by the wall, the host's own work included, as a user sees it. `device_only`: between
    two events on a card, with a cold cache, as an operation's floor is counted; on a CPU the same.
    """

    def __init__(self, device: torch.device, rounds: int, seconds: float) -> None:
        self.device, self.rounds, self.seconds = device, rounds, seconds
        self._flush: torch.Tensor | None = None

    def whole(
        self, calls: Calls, before: Callable[[], object] = lambda: None, rounds: int | None = None
    ) -> dict[str, Timing]:
        """`{name: Timing}`; `before` runs ahead of each call, untimed."""
        return self._rounds(calls, self._by_the_wall, before, rounds or self.rounds)

    def device_only(
        self, calls: Calls, before: Callable[[], object] = lambda: None, rounds: int | None = None
    ) -> dict[str, Timing]:
        """The same by the device's own time."""
        measure = self._by_events if self.device.type == "cuda" else self._by_the_wall
        return self._rounds(calls, measure, before, rounds or self.rounds)

    def _rounds(
        self, calls: Calls, measure: Callable, before: Callable[[], object], rounds: int
    ) -> dict[str, Timing]:
        def one_round(order: list[str]) -> dict[str, float]:
            seconds = {}
            for name in order:
                before()
                seconds[name] = measure(calls[name])
            return seconds

        # Each call was tried once before; this round shows how many there is time for.
        start = time.perf_counter()
        one_round([*calls])
        spent = time.perf_counter() - start
        affordable = max(FEWEST, int(self.seconds / spent))
        found = [one_round(order) for order in islice(orders([*calls]), min(rounds, affordable))]
        return {name: Timing([seconds[name] for seconds in found]) for name in calls}

    def _by_the_wall(self, call: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        result = call()
        self.wait()
        seconds = time.perf_counter() - start
        del result
        return seconds

    def _by_events(self, call: Callable[[], object]) -> float:
        if self._flush is None:
            self._flush = torch.empty(FLUSHED, dtype=torch.int8, device=self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        self._flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def wait(self) -> None:
        """Until the device has done what was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
