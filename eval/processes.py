"""The processes that share an evaluation: what each takes, and what all of them found."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

PATIENCE = timedelta(days=1)  # a rank that has done its share waits for the slowest
Part = TypeVar("Part")


class Ranks:
    """This process among those that torchrun started; alone without torchrun.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: where this one computes.
    """

    def __init__(self) -> None:
        if torch.accelerator.is_available():
            self.state = PartialState(timeout=PATIENCE)
        else:
            self.state = PartialState(cpu=True, timeout=PATIENCE)
        self.rank, self.count = self.state.process_index, self.state.num_processes
        self.device: torch.device = self.state.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the report and draws the bars."""
        return self.rank == 0

    def share(self, batches: Sequence[Part]) -> Sequence[Part]:
        """Every `count`-th batch: what a batch holds does not depend on who takes it."""
        return batches[self.rank :: self.count]

    def together(self, mine: dict[str, Any]) -> dict[str, Any]:
        """What any process found; all of them must come here."""
        everyone: dict[str, Any] = {}
        for found in gather_object([mine]):
            everyone |= found
        return everyone

    def wait(self) -> None:
        """Goes on when every process has come here."""
        self.state.wait_for_everyone()

    def leave(self) -> None:
        """The end of the processes' common work."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
