"""`Run`: times calls next to each other, and keeps a `Row` for each and all checks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from .counts import count
from .measure import Calls, Clock, peak_bytes
from .roofline import Work, measure_ceilings
from .setting import Preset, Shape

# Versions that are compared, and baselines.
BARE, AGAIN, SDPA = "bare LLM", "again", "SDPA"
WINGS, PLAIN, TEXTBOOK, FLEX = "wings", "wings in torch", "textbook", "flex_attention"
LLAVA, CROSS = "LLaVA", "cross-attention"
CHEAP = "image, 1 of 3"
DESCRIPTORS = "wings, TMA"
CHOSEN, OTHER = "chosen", "alternative"
# Versions that need a check before they are timed. For any other, a failed check is enough to skip.
CHECKED = (WINGS, PLAIN, DESCRIPTORS)

# Measured things.
FORWARD, STEP, MEMORY, DECODING = "forward", "training step", "training memory", "decoding"
COMPILED, RECORDED = "decoding, compiled", "decoding, recorded"
LAUNCHES, TRAFFIC = "decoding, launches", "decoding, bytes"
MODEL = "whole model"
MODELS = (FORWARD, STEP, MEMORY, DECODING, LAUNCHES, TRAFFIC, COMPILED, RECORDED)
ROUTED, IMAGES, TEXTS = "routed attention", "image learner", "text learner"
OPERATIONS = (ROUTED, IMAGES, TEXTS)
BACKWARD = " + backward"

Call = Callable[[], object]


@dataclass
class Row:
    """`variant` in units of `baseline`, measured in the same rounds.

    Attributes:
        low, high: quartiles of the ratios of `rounds` rounds.
        value, base: medians of the two, in `unit`.
        floor: the lowest possible ratio. For operations, the time at the machine's ceilings over
            that of the baseline; for training steps, the ratio of operations; for the bytes of a
            decoded token, that of reading everything once.
        skipped: why there is no ratio.
    """

    what: str
    variant: str
    baseline: str
    shape: str
    dtype: str
    batch: int
    length: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    value: float | None = None
    base: float | None = None
    unit: str = "s"
    floor: float | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class Place:
    """A measured thing and its size."""

    what: str
    shape: Shape
    batch: int
    length: int


class Run:
    """Collects rows and checks.

    Nothing is measured after a failed check, and nothing begins after `minutes`. What does not fit
    into memory, or what torch refuses, leaves a row with the reason.
    """

    def __init__(
        self, preset: Preset, device: torch.device, minutes: float | None, console: Console
    ) -> None:
        self.preset, self.device, self.console = preset, device, console
        self.clock = Clock(device, preset.rounds, preset.seconds)
        self.ceilings = measure_ceilings(self.clock, preset.dtype, preset.ceiling)
        self.rows: list[Row] = []
        self.checks: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.left_out: list[str] = []
        self.started = time.monotonic()
        self.minutes = minutes

    @property
    def is_late(self) -> bool:
        """True if the time given for the run is over."""
        return self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes

    @property
    def is_green(self) -> bool:
        """True if every check passed and no part failed."""
        return not self.failures and all(check["green"] for check in self.checks)

    def attempt(self, name: str, part: Callable[[], None]) -> None:
        """Runs a part and records its error, so that the rest of a GPU's time is not lost."""
        if self.is_late:
            self.left_out.append(name)
            return
        try:
            part()
        except Exception as error:
            self.failures.append(f"{name}: {first_line(error)}")
            self.console.print_exception()

    def check(
        self, what: str, variant: str, shape: Shape, part: str, error: float, budget: float
    ) -> None:
        """Records a check; a NaN error fails."""
        green = error <= budget
        self.checks.append(
            {
                "what": what, "variant": variant, "shape": shape.name, "part": part,
                "error": error, "budget": budget, "green": green,
            }
        )  # fmt: skip
        if not green:
            self.console.print(
                f"[bold red]FAILED[/] {what}, {variant}, {shape.name}, {part}: "
                f"error {error:.2g}, budget {budget:.2g}"
            )

    def has_passed(self, what: str, variant: str, shape: Shape) -> bool:
        """True if no check of this version failed; those in `CHECKED` need at least one."""
        what = MODEL if what in MODELS else what.removesuffix(BACKWARD)
        key = (what, variant, shape.name)
        found = [c["green"] for c in self.checks if (c["what"], c["variant"], c["shape"]) == key]
        return all(found) and (bool(found) or variant not in CHECKED)

    def time(
        self,
        place: Place,
        calls: Calls,
        whole: bool = True,
        before: Call = lambda: None,
        work: Work | None = None,
        floor: float | None = None,
        rounds: int | None = None,
        skipped: dict[str, str] | None = None,
    ) -> None:
        """Adds rows of all calls in units of the first.

        Args:
            place: what the calls do.
            calls: by variant; the first is the baseline.
            whole: True for wall-clock time, False for the time of the device.
            before: called ahead of each call, untimed.
            work: gives a floor by the ceilings of the machine.
            floor: the lowest possible ratio, where it needs no ceilings.
            rounds: instead of the preset's.
            skipped: variants that were not tried, with the reason.
        """
        baseline = next(iter(calls))
        usable, reasons = self._try_all(place, calls, before, skipped)
        measure = self.clock.whole if whole else self.clock.device_only
        # The textbook has rounds of its own. It takes so long that it would leave few to the rest.
        others = [name for name in usable if name not in (baseline, TEXTBOOK)]
        alone = [TEXTBOOK] if TEXTBOOK in usable else []
        for group in (others, alone) if baseline in usable else ():
            if not group:
                continue
            timings = measure({name: usable[name] for name in (baseline, *group)}, before, rounds)
            base = timings.pop(baseline)
            for name, timing in timings.items():
                ratio, low, high = timing.over(base)
                self._add(
                    place, name, baseline, ratio=ratio, low=low, high=high,
                    rounds=len(timing.seconds), value=timing.median, base=base.median,
                    floor=floor if work is None else work.floor(self.ceilings) / base.median,
                )  # fmt: skip
        self._add_skipped(place, baseline, usable, reasons)

    def measure_memory(self, place: Place, calls: Calls, before: Call = lambda: None) -> None:
        """Adds rows of the peak memory of all calls in units of the first."""
        baseline = next(iter(calls))
        # The first pass, which is not counted, allocates what libraries keep.
        usable, reasons = self._try_all(place, calls, before)
        peaks = {}
        for name, call in usable.items():
            before()
            peaks[name] = peak_bytes(call, self.device)
            before()
        base = peaks.pop(baseline, 0)
        for name, peak in peaks.items() if base else ():
            ratio = peak / base
            self._add(
                place, name, baseline, ratio=ratio, low=ratio, high=ratio,
                value=float(peak), base=float(base), unit="bytes",
            )  # fmt: skip
        self._add_skipped(place, baseline, usable, reasons)

    def count(self, place: Place, calls: Calls, floor_bytes: int) -> None:
        """Adds rows of the launches and the bytes of all calls in units of the first.

        Args:
            place: of the calls; the rows have a `what` of their own.
            calls: by variant; the first is the baseline.
            floor_bytes: that wings add to the baseline at least.
        """
        baseline = next(iter(calls))
        usable, reasons = self._try_all(place, calls, lambda: None)
        if baseline in reasons:
            # `time` tries the same calls, and gives the reasons.
            return
        counts = {name: count(call) for name, call in usable.items() if name != AGAIN}
        base = counts.pop(baseline)
        launches, traffic = base.launches.total(), base.bytes.total()
        # A growing cache of the baseline is copied for each token, which no floor needs.
        floor = (traffic - base.bytes["cat"] + floor_bytes) / traffic
        for name, found in counts.items():
            for what, unit, value, least, lowest in (
                (LAUNCHES, "launches", found.launches.total(), launches, None),
                (TRAFFIC, "bytes", found.bytes.total(), traffic, floor),
            ):
                ratio = value / least
                self._add(
                    replace(place, what=what), name, baseline, ratio=ratio, low=ratio, high=ratio,
                    value=float(value), base=float(least), unit=unit,
                    floor=lowest if name in CHECKED else None,
                )  # fmt: skip

    def skip(self, place: Place, variant: str, baseline: str, reason: str) -> None:
        """Adds a row without a ratio."""
        self._add(place, variant, baseline, skipped=reason)

    def _try_all(
        self, place: Place, calls: Calls, before: Call, skipped: dict[str, str] | None = None
    ) -> tuple[Calls, dict[str, str]]:
        """Calls each once; returns those that can be measured, and reasons for the others."""
        usable, reasons = {}, dict(skipped or {})
        for name, call in calls.items():
            reason = self._try(place, name, call, before)
            if reason is None:
                usable[name] = call
            else:
                reasons[name] = reason
        return usable, reasons

    def _try(self, place: Place, name: str, call: Call, before: Call) -> str | None:
        if self.is_late:
            return "the time of the run was over"
        if not self.has_passed(place.what, name, place.shape):
            return "its check did not pass"
        try:
            before()
            call()
            return None
        except torch.OutOfMemoryError:
            reason = "out of memory"
        # torch reports what it cannot compile in errors of many classes.
        except Exception as error:
            if name != FLEX:
                raise
            reason = f"refused by torch: {first_line(error)}"
        before()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return reason

    def _add_skipped(
        self, place: Place, baseline: str, usable: Calls, reasons: dict[str, str]
    ) -> None:
        if baseline in reasons:
            reasons |= {name: f"no {baseline}: {reasons[baseline]}" for name in usable}
        for name, reason in reasons.items():
            if name not in (baseline, AGAIN):
                self.skip(place, name, baseline, reason)

    def _add(self, place: Place, variant: str, baseline: str, **fields: Any) -> None:
        dtype = str(self.preset.dtype).removeprefix("torch.")
        row = Row(
            place.what, variant, baseline, place.shape.name, dtype, place.batch, place.length,
            **fields,
        )  # fmt: skip
        self.rows.append(row)
        result = f"skipped, {row.skipped}" if row.ratio is None else f"{row.ratio:.2f}"
        where = f"{row.what}, {row.shape}, {row.batch} x {row.length}: {row.variant}"
        self.console.print(f"[dim]{where} {result}[/]")


def first_line(error: Exception) -> str:
    """The class and the first non-empty line of an error, at most 200 letters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
