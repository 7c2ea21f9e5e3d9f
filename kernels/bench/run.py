"""`Run`: one run of the bench; times calls side by side and keeps a `Row` for each."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from .ceilings import measure_ceilings
from .clock import Calls, Clock
from .floor import Work
from .memory import peak_bytes
from .preset import Preset, Shape
from .row import AGAIN, BACKWARD, FLEX, MODEL, MODELS, OURS, TEXTBOOK, Row


@dataclass(frozen=True)
class Place:
    """What is measured where."""

    what: str
    shape: Shape
    batch: int
    length: int


class Run:
    """Collects rows and checks.

    Nothing whose check is red is measured, nothing begins once `minutes` have gone by, and what
    does not fit into memory or is refused by torch leaves a row that says so.
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
        return self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes

    def checked(
        self, what: str, variant: str, shape: Shape, part: str, error: float, budget: float
    ) -> None:
        """Writes down a check; an error that is no number is red."""
        green = error <= budget
        self.checks.append(
            {
                "what": what, "variant": variant, "shape": shape.name, "part": part,
                "error": error, "budget": budget, "green": green,
            }
        )  # fmt: skip
        if not green:
            self.console.print(
                f"[bold red]RED[/] {what}, {variant}, {shape.name}, {part}: "
                f"error {error:.2g}, budget {budget:.2g}"
            )

    @property
    def is_green(self) -> bool:
        """Whether all checks were, and nothing broke."""
        return not self.failures and all(check["green"] for check in self.checks)

    def attempt(self, name: str, part: Callable[[], None]) -> None:
        """Runs a part; one that breaks is written down, and what can be measured after it still is.

        A card is lent for minutes, and the rest of them must not be lost.
        """
        if self.is_late:
            self.left_out.append(name)
            return
        try:
            part()
        except Exception as error:
            self.failures.append(f"{name}: {first_line(error)}")
            self.console.print_exception()

    def is_checked(self, what: str, variant: str, shape: Shape) -> bool:
        """Whether this operation, or whole models, were checked and no check was red.

        What others are measured against needs none: it is the definition.
        """
        what = MODEL if what in MODELS else what.removesuffix(BACKWARD)
        place = (what, variant, shape.name)
        found = [
            check["green"]
            for check in self.checks
            if (check["what"], check["variant"], check["shape"]) == place
        ]
        return all(found) and (bool(found) or variant not in OURS)

    def time(
        self,
        place: Place,
        calls: Calls,
        whole: bool = True,
        before: Callable[[], object] = lambda: None,
        work: Work | None = None,
        floor: float | None = None,
        rounds: int | None = None,
        skipped: dict[str, str] | None = None,
    ) -> None:
        """Rows of all calls in units of the first.

        Args:
            place: what they do.
            calls: by variant; the first is the baseline.
            whole: by the wall, or the device's own time.
            before: runs ahead of each call, untimed.
            work: what must be done for it, for a floor by the machine's ceilings.
            floor: the ratio below which nothing gets, where it is known without a ceiling.
            rounds: where they are not the preset's.
            skipped: variants that were not even tried, and why.
        """
        baseline = next(iter(calls))
        reasons = dict(skipped or {})
        usable = {}
        for name, call in calls.items():
            reason = self._refusal(place, name, call, before)
            if reason is None:
                usable[name] = call
            else:
                reasons[name] = reason
        measure = self.clock.whole if whole else self.clock.device_only
        for group in groups(list(usable)) if baseline in usable else ():
            timings = measure({name: usable[name] for name in (baseline, *group)}, before, rounds)
            base = timings.pop(baseline)
            for name, timing in timings.items():
                ratio, low, high = timing.over(base)
                self._add(
                    place, name, baseline, ratio=ratio, low=low, high=high,
                    rounds=len(timing.seconds), value=timing.median, base=base.median,
                    floor=floor if work is None else work.floor(self.ceilings) / base.median,
                )  # fmt: skip
        if baseline not in usable:
            reasons |= {name: f"no {baseline}: {reasons[baseline]}" for name in usable}
        for name, reason in reasons.items():
            if name not in (baseline, AGAIN):
                self.skip(place, name, baseline, reason)

    def measure_memory(
        self,
        place: Place,
        calls: Calls,
        before: Callable[[], object],
        skipped: dict[str, str] | None = None,
    ) -> None:
        """Rows of the calls' peak memory in units of the first's."""
        baseline = next(iter(calls))
        reasons, found = dict(skipped or {}), {}
        for name, call in calls.items():
            # The first pass leaves what libraries keep for good.
            reason = self._refusal(place, name, call, before)
            if reason is None:
                before()
                found[name] = peak_bytes(call, self.device)
                before()
            else:
                reasons[name] = reason
        for name, peak in found.items():
            if name != baseline and baseline in found:
                self._add(
                    place, name, baseline, ratio=peak / found[baseline],
                    low=peak / found[baseline], high=peak / found[baseline],
                    value=float(peak), base=float(found[baseline]), unit="bytes",
                )  # fmt: skip
        for name, reason in reasons.items():
            if name != baseline:
                self.skip(place, name, baseline, reason)

    def skip(self, place: Place, variant: str, baseline: str, reason: str) -> None:
        """A row without numbers."""
        self._add(place, variant, baseline, skipped=reason)

    def _refusal(
        self, place: Place, name: str, call: Callable[[], object], before: Callable[[], object]
    ) -> str | None:
        """Tries a call once; why it cannot be measured, or None."""
        if self.is_late:
            return "the run's time was up"
        if not self.is_checked(place.what, name, place.shape):
            return "its check was not green"
        try:
            before()
            call()
        except torch.OutOfMemoryError:
            reason = "out of memory"
        # What torch cannot compile it says in errors of many classes.
        except Exception as error:
            if name != FLEX:
                raise
            reason = f"refused by torch: {first_line(error)}"
        else:
            return None
        before()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return reason

    def _add(self, place: Place, variant: str, baseline: str, **fields: Any) -> None:
        dtype = str(self.preset.dtype).removeprefix("torch.")
        row = Row(
            place.what, variant, baseline, place.shape.name, dtype, place.batch, place.length,
            **fields,
        )  # fmt: skip
        self.rows.append(row)
        where = f"{row.what}, {row.shape}, {row.batch} x {row.length}: {row.variant}"
        if row.skipped is None:
            self.console.print(f"[dim]{where} {row.ratio:.2f}[/]")
        else:
            self.console.print(f"[dim]{where} skipped, {row.skipped}[/]", markup=True)


def groups(usable: list[str]) -> list[list[str]]:
    """Versions to be timed together, beside the first of all.

    The textbook stands alone: it takes so long that there would be few rounds with it.
    """
    others = [name for name in usable[1:] if name != TEXTBOOK]
    alone = [TEXTBOOK] if TEXTBOOK in usable[1:] else []
    return [group for group in (others, alone) if group]


def first_line(error: Exception) -> str:
    """The first line of an error that says something, cut short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
