"""The processes that share an evaluation, as started by torchrun."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

TIMEOUT = timedelta(days=1)  # a process that is done waits for the slowest
Part = TypeVar("Part")


class Processes:
    """This process among those that torchrun started; one alone without torchrun.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: of this process.
    """

    def __init__(self) -> None:
        cpu = not torch.accelerator.is_available()
        self.state = PartialState(cpu=cpu, timeout=TIMEOUT)
        self.rank, self.count = self.state.process_index, self.state.num_processes
        self.device: torch.device = self.state.device

    @property
    def is_first(self) -> bool:
        """True in the process that writes the report and shows progress."""
        return self.rank == 0

    def share(self, batches: Sequence[Part]) -> Sequence[Part]:
        """Every `count`-th batch; the content of a batch is independent of `count`."""
        return batches[self.rank :: self.count]

    def gather(self, results: dict[str, Any]) -> dict[str, Any]:
        """The results of all processes; all of them must call it."""
        gathered: dict[str, Any] = {}
        for part in gather_object([results]):
            gathered |= part
        return gathered

    def wait(self) -> None:
        """Blocks until all processes have called it."""
        self.state.wait_for_everyone()

    def close(self) -> None:
        """Ends the process group."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
