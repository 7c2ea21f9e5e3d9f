"""Tracks throughput, padding, MFU, memory and gates of a run, summed on the device."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from wings.attention.token_layout import IMAGE
from wings.model.causal_lm import WingsForCausalLM

from .batch_counts import NAMES, count, layout_of
from .flops import Flops, peak_flops

GIB = 1024**3
# Metrics of one process since its last log. An interruption changes no bit of all others.
PER_PROCESS = ("tokens_per_second", "padding", "image_tokens", "mfu", "memory_gib")


class MetricTracker:
    """Counts every step; on a logged step, reduces the sums over all ranks.

    Nothing waits for the device between two logs.

    Args:
        model: with its groups frozen as in training, and not yet wrapped or sharded.
        accelerator: accelerator of the run.
    """

    def __init__(self, model: WingsForCausalLM, accelerator: Accelerator) -> None:
        self.config, self.accelerator = model.config, accelerator
        self.device = accelerator.device
        self.flops = Flops.of(model)
        self.peak = peak_flops(device_name(self.device))
        self.with_gates = False
        self._reset()
        self._since: float | None = None

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
        """Sum the gates of one micro-batch over the tokens that see an image.

        Elsewhere only one learner has source tokens. Its gate is 1, or 0 with a router that reads
        whether images are attended.

        Args:
            batch: inputs of the model.
            weights: `[B, T, M]` per block with learners; None if no learner was active.
        """
        if weights is None:
            return
        sees = layout_of(batch, self.config).sees_sense(IMAGE)
        gates = torch.stack([gate.detach().to(self.device) for gate in weights])
        self._gates += (gates.float() * sees[None, :, :, None]).sum((1, 2))
        self._gated += sees.sum()

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
        counts = dict(zip(NAMES, sums, strict=False))
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
            "image_tokens": round(counts["image_tokens"] / counts["tokens"], 4),
        }
        if self.peak is not None:
            done = self.flops.total(counts) / seconds
            metrics["mfu"] = round(done / (self.peak * ranks), 4)
        return metrics

    def _mean_gates(self) -> dict[str, float]:
        row = torch.cat([self._gates.flatten(), self._gated[None].float()])
        *sums, tokens = self.accelerator.gather(row[None]).sum(0).tolist()
        if not tokens:
            return {}
        names = [
            f"gate/{learner}/{layer}"
            for layer in self.config.layers_with_learners
            for learner in self.config.learners
        ]
        return {name: round(total / tokens, 5) for name, total in zip(names, sums, strict=True)}

    def _reset(self) -> None:
        blocks, learners = len(self.config.layers_with_learners), len(self.config.learners)
        self._counts = torch.zeros(len(NAMES), dtype=torch.long, device=self.device)
        self._gates = torch.zeros(blocks, learners, device=self.device)
        self._gated = torch.zeros((), dtype=torch.long, device=self.device)


def without_process_metrics(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Logged entries without the metrics in `PER_PROCESS`."""
    return [
        {name: value for name, value in entry.items() if name not in PER_PROCESS}
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
