"""Clock, memory meter and error of the benchmark."""

import ctypes
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Calls = dict[str, Callable[[], object]]
# Bytes to write between two calls on a GPU. This clears its cache of the previous call, and takes
# longer than the host needs to queue the next one.
FLUSHED = 2**30
FEWEST_ROUNDS = 4
# Log level above everything that the profiler's library prints at its start.
SILENT = "6"
# Options of mallopt in malloc.h, and the largest threshold that glibc accepts.
TRIM_THRESHOLD, MMAP_THRESHOLD, LARGEST = -1, -3, 32 * 2**20
# Error budget: twice the error of the plain version in the same precision, plus half a step of the
# dtype and the accumulated rounding of fp32 for results that the plain version gets exactly.
TIMES, STEPS, ROUNDING = 2.0, 0.5, 1e-6


@dataclass
class Timing:
    """Seconds of one call in every round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Timing") -> tuple[float, float, float]:
        """Median and quartiles of the ratios of this time to the other's, round by round.

        The calls of a round are close in time, so a machine that slows down slows both.
        """
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return statistics.median(ratios), low, high


def orders(names: list[str]) -> Iterator[list[str]]:
    """Endless random orders, each followed by its reverse.

    Each call follows each other one, as the previous call leaves traces in caches. Within two
    rounds each is as early as late, so a machine that slows down favours none.
    """
    shuffle = random.Random(0).shuffle
    while True:
        order = list(names)
        shuffle(order)
        yield order
        yield order[::-1]


class Clock:
    """Times calls in interleaved rounds, each of which takes every call once.

    Args:
        device: runs the calls.
        rounds: the most rounds.
        seconds: fewer rounds are made if they would take longer than this.
    """

    def __init__(self, device: torch.device, rounds: int, seconds: float) -> None:
        self.device, self.rounds, self.seconds = device, rounds, seconds
        self._flush: torch.Tensor | None = None

    def whole(
        self, calls: Calls, before: Callable[[], object] = lambda: None, rounds: int | None = None
    ) -> dict[str, Timing]:
        """Wall-clock times, with the host's work, as a user sees them.

        `before` is called ahead of each call and not timed.
        """
        return self._rounds(calls, self._wall_time, before, rounds or self.rounds)

    def device_only(
        self, calls: Calls, before: Callable[[], object] = lambda: None, rounds: int | None = None
    ) -> dict[str, Timing]:
        """Times between two events on a GPU, with a cold cache; wall-clock times on a CPU."""
        measure = self._event_time if self.device.type == "cuda" else self._wall_time
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

        # Every call has run once before, so this round shows how many rounds there is time for.
        start = time.perf_counter()
        one_round([*calls])
        affordable = int(self.seconds / (time.perf_counter() - start))
        rounds = min(rounds, max(FEWEST_ROUNDS, affordable))
        timed = [one_round(order) for order in islice(orders([*calls]), rounds)]
        return {name: Timing([seconds[name] for seconds in timed]) for name in calls}

    def _wall_time(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        result = call()
        self._wait()
        seconds = time.perf_counter() - start
        # Freed outside of the timed interval.
        del result
        return seconds

    def _event_time(self, call: Callable[[], object]) -> float:
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

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Peak memory of one call, in bytes above what was allocated before it.

    For a training step without gradients at its start this counts saved tensors, temporaries inside
    operators too, and all gradients. Weights, buffers and the batch exist before. On a CPU the
    profiler reports every block of torch's allocator, so nothing is sampled and the peak is the
    same in every run. Scratch memory of other libraries, such as oneDNN, is not seen. On a GPU it
    is the peak of the caching allocator.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", SILENT)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    blocks = [event for event in events if event.get("name") == "[memory]"]
    blocks.sort(key=lambda event: (event["ts"], event["args"]["Ev Idx"]))
    held: dict[int, int] = {}
    total = peak = 0
    for event in (block["args"] for block in blocks):
        if event["Device Type"] != 0:
            continue
        # Freeing a block that existed before the call does not count.
        change = event["Bytes"] if event["Bytes"] > 0 else -held.pop(event["Addr"], 0)
        if change > 0:
            held[event["Addr"]] = change
        total += change
        peak = max(peak, total)
    return peak


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU; all memory of the machine on a CPU, as file caches give way."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_heap() -> bool:
    """Makes glibc keep freed memory in the process; True if it could be set.

    Otherwise a call pays for new pages, up to a quarter of a forward, or not, depending on the
    calls before it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(MMAP_THRESHOLD, LARGEST) and libc.mallopt(TRIM_THRESHOLD, -1))


def relative_error(result: Tensor, exact: Tensor) -> float:
    """|result - exact| / |exact| over all elements; NaN if an element is NaN."""
    return float((result.double() - exact).norm() / exact.norm())


def budget(plain: Tensor, exact: Tensor) -> float:
    """The largest allowed error, given the result of the plain version in the same precision."""
    rounding = STEPS * torch.finfo(plain.dtype).eps + ROUNDING
    return TIMES * relative_error(plain, exact) + rounding


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative difference of two correct versions in one dtype."""
    return 1e-4 if dtype == torch.float32 else 3e-2
