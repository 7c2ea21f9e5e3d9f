"""Figures: what a run does per second and how full its batches are, added up on the device."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from wings.model.causal_lm import WingsForCausalLM

from .batch_counts import NAMES, count, layout_of
from .flops import Flops
from .gpu_peaks import peak_flops

GIB = 1024**3
# What a process did since it logged last. All other figures are those of the run, which a kill in
# between does not change by a bit.
OF_A_PROCESS = ("tokens_per_second", "padding", "image_tokens", "mfu", "memory_gib")


class Figures:
    """Counts every step and reads the sums, over all ranks, when a step is logged.

    Between two readings nothing waits for the device.

    Args:
        model: as it is trained, its groups frozen or not; before anything wraps or shards it.
        accelerator: of the run.
    """

    def __init__(self, model: WingsForCausalLM, accelerator: Accelerator) -> None:
        self.config, self.accelerator = model.config, accelerator
        self.device = accelerator.device
        self.flops = Flops.of(model)
        self.peak = peak_flops(device_name(self.device))
        self.with_gates = False
        self._forget()
        self._since: float | None = None

    def take(self, batches: Sequence[dict[str, Any]], with_gates: bool) -> None:
        """Count the micro-batches of one step.

        Args:
            batches: as the loader gives them.
            with_gates: whether this step is logged, so that its gates are wanted too.
        """
        if self._since is None:
            # What comes before the first step, above all skipping what was trained already, is
            # not training.
            self._since = time.perf_counter()
        self.with_gates = with_gates and self.config.is_routed
        for batch in batches:
            self._counts += count(batch, self.config).to(self.device)

    def take_gates(self, batch: dict[str, Any], weights: tuple[Tensor, ...] | None) -> None:
        """Add up the gates of one micro-batch over the tokens that see an image.

        Elsewhere only one learner has something to look at, and its gate is 1, or 0 of a router
        that asks whether pictures are attended.

        Args:
            batch: what the model was given.
            weights: `[B, T, M]` of each block with learners; None where no learner took part.
        """
        if weights is None:
            return
        sees = layout_of(batch, self.config).sees_image
        gates = torch.stack([gate.detach().to(self.device) for gate in weights])
        self._gates += (gates.float() * sees[None, :, :, None]).sum((1, 2))
        self._gated += sees.sum()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work that is no training: its time is left out of what is done per second."""
        if self.device.type != "cpu":
            # What is queued is training still.
            torch.accelerator.synchronize()
        begin = time.perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """The figures since the last reading; every rank must ask, and all get the same."""
        memory = peak_memory(self.device)
        row = torch.cat([self._counts, self._counts.new_tensor([memory])])
        rows = self.accelerator.gather(row[None]).tolist()
        seconds = time.perf_counter() - (self._since or time.perf_counter())
        sums = [sum(column) for column in zip(*rows, strict=True)]
        counts = dict(zip(NAMES, sums, strict=False))
        figures = {}
        if counts["tokens"] and seconds > 0:
            figures = self._rates(counts, seconds, len(rows))
        if memory:
            figures["memory_gib"] = round(max(row[-1] for row in rows) / GIB, 3)
        if self.with_gates:
            figures |= self._mean_gates()
        self._forget()
        self._since = time.perf_counter()
        return figures

    def _rates(self, counts: dict[str, int], seconds: float, ranks: int) -> dict[str, float]:
        figures = {
            "tokens_per_second": round(counts["tokens"] / seconds, 1),
            "padding": round(1 - counts["tokens"] / counts["places"], 4),
            "image_tokens": round(counts["image_tokens"] / counts["tokens"], 4),
        }
        if self.peak is not None:
            done = self.flops.total(counts) / seconds
            figures["mfu"] = round(done / (self.peak * ranks), 4)
        return figures

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

    def _forget(self) -> None:
        blocks, learners = len(self.config.layers_with_learners), len(self.config.learners)
        self._counts = torch.zeros(len(NAMES), dtype=torch.long, device=self.device)
        self._gates = torch.zeros(blocks, learners, device=self.device)
        self._gated = torch.zeros((), dtype=torch.long, device=self.device)


def of_the_run(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Logged entries without the figures that are a process's own."""
    return [
        {name: value for name, value in entry.items() if name not in OF_A_PROCESS}
        for entry in history
    ]


def device_name(device: torch.device) -> str:
    """What a GPU calls itself; an empty text for anything else."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on a GPU those of tensors, on a CPU all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform != "linux":
        return 0
    # Not on every platform.
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
