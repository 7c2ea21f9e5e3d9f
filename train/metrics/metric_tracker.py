"""Tracks throughput, padding, MFU, memory and gates of a run, summed on the device."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from wings.model.causal_lm import WingsForCausalLM

from .batch_counts import count, layout_of, names_of, tokens_of
from .flops import Flops, peak_flops

GIB = 1024**3
# Metrics of one process since its last log. An interruption changes no bit of all others.
PER_PROCESS = ("tokens_per_second", "padding", "mfu", "memory_gib")


class MetricTracker:
    """Counts every step; on a logged step, reduces the sums over all ranks.

    Nothing waits for the device between two logs.

    Args:
        model: with its groups frozen as in training, and not yet wrapped or sharded.
        accelerator: accelerator of the run.
        encodes: False if features come from a `feature_cache`, whose items are not counted.
    """

    def __init__(
        self, model: WingsForCausalLM, accelerator: Accelerator, encodes: bool = True
    ) -> None:
        self.config, self.accelerator = model.config, accelerator
        self.device = accelerator.device
        self.flops = Flops.of(model, encodes)
        self.peak = peak_flops(device_name(self.device))
        self.names, self.with_gates = names_of(model.config), False
        self.gates, self._rows = self._columns()
        self._reset()
        self._since: float | None = None

    def _columns(self) -> tuple[list[str], list[list[int]]]:
        """The names of all gates, and for each block the numbers of their senses."""
        senses, names = list(self.config.senses.values()), []
        rows: list[list[int]] = []
        for layer in self.config.layers_with_learners:
            rows.append([])
            for number, sense in enumerate(senses):
                if layer in sense.layers:
                    names += [f"gate/{module}/{layer}" for module in sense.modules]
                    rows[-1] += [number] * len(sense.modules)
        return names, rows

    def add_batches(self, batches: Sequence[dict[str, Any]], with_gates: bool) -> None:
        """Count the micro-batches of one step.

        Args:
            batches: batches of the loader.
            with_gates: True on a logged step, whose gates are averaged too.
        """
        if self._since is None:
            # Time before the first step, above all for skipping trained samples, does not count.
            self._since = time.perf_counter()
        self.with_gates = with_gates and self.config.is_routed
        for batch in batches:
            self._counts += count(batch, self.config).to(self.device)

    def add_gates(self, batch: dict[str, Any], weights: tuple[Tensor, ...] | None) -> None:
        """Sum the gates of one micro-batch over the tokens that see an item of the gate's sense.

        Elsewhere only one learner has source tokens. Its gate is 1, or 0 with a router that reads
        whether items are attended.

        Args:
            batch: inputs of the model.
            weights: `[B, T, M]` per block with learners; None if no learner was active.
        """
        if weights is None:
            return
        layout = layout_of(batch, self.config)
        # [S, B, T], of which a gate takes the row of its sense.
        sees = torch.stack([layout.sees_sense(one.kind) for one in self.config.senses.values()])
        sums = [
            (gate.detach().to(self.device).float() * sees[rows].permute(1, 2, 0)).sum((0, 1))
            for gate, rows in zip(weights, self._rows, strict=True)
        ]
        self._gates += torch.cat(sums)
        self._gated += sees.sum((1, 2))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of the block from the throughput."""
        if self.device.type != "cpu":
            # Queued work is still training.
            torch.accelerator.synchronize()
        begin = time.perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - begin

    def pop(self) -> dict[str, float]:
        """The metrics since the last call; every rank must call this, and all get the same."""
        memory = peak_memory(self.device)
        row = torch.cat([self._counts, self._counts.new_tensor([memory])])
        rows = self.accelerator.gather(row[None]).tolist()
        seconds = time.perf_counter() - (self._since or time.perf_counter())
        sums = [sum(column) for column in zip(*rows, strict=True)]
        counts = dict(zip(self.names, sums, strict=False))
        metrics = {}
        if counts["tokens"] and seconds > 0:
            metrics = self._rates(counts, seconds, len(rows))
        if memory:
            metrics["memory_gib"] = round(max(row[-1] for row in rows) / GIB, 3)
        if self.with_gates:
            metrics |= self._mean_gates()
        self._reset()
        self._since = time.perf_counter()
        return metrics

    def _rates(self, counts: dict[str, int], seconds: float, ranks: int) -> dict[str, float]:
        metrics = {
            "tokens_per_second": round(counts["tokens"] / seconds, 1),
            "padding": round(1 - counts["tokens"] / counts["places"], 4),
        }
        for sense in self.config.senses:
            name = tokens_of(sense)
            metrics[name] = round(counts[name] / counts["tokens"], 4)
        if self.peak is not None:
            done = self.flops.total(counts) / seconds
            metrics["mfu"] = round(done / (self.peak * ranks), 4)
        return metrics

    def _mean_gates(self) -> dict[str, float]:
        row = torch.cat([self._gates, self._gated.float()])
        totals = self.accelerator.gather(row[None]).sum(0).tolist()
        sums, tokens = totals[: len(self.gates)], totals[len(self.gates) :]
        rows = [sense for block in self._rows for sense in block]
        return {
            name: round(total / tokens[sense], 5)
            for name, total, sense in zip(self.gates, sums, rows, strict=True)
            if tokens[sense]
        }

    def _reset(self) -> None:
        senses = len(self.config.senses)
        self._counts = torch.zeros(len(self.names), dtype=torch.long, device=self.device)
        self._gates = torch.zeros(len(self.gates), device=self.device)
        self._gated = torch.zeros(senses, dtype=torch.long, device=self.device)


def without_process_metrics(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Logged entries without the metrics in `PER_PROCESS` and the shares of tokens."""
    return [
        {
            name: value
            for name, value in entry.items()
            if name not in PER_PROCESS and not name.endswith(tokens_of(""))
        }
        for entry in history
    ]


def device_name(device: torch.device) -> str:
    """Name of a GPU; empty for other devices."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def peak_memory(device: torch.device) -> int:
    """Peak bytes of this process: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform != "linux":
        return 0
    # Missing on some platforms.
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
