"""State of a run that a checkpoint stores besides weights, optimiser and random state."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

FILE = "resume_state.json"


@dataclass
class ResumeState:
    """Running sums that make the metrics of a resumed run equal those of an uninterrupted one.

    Attributes:
        skipped: records skipped so far on all processes, with the reason.
        loss: sum of the losses since the last log, a mean over processes.
        logged: step of the last log.
        kl_to_base: sum of the KL since the last log and its tokens, over all processes; empty
            without that term.
        held_out_skipped: the same of held-out records, as set, number and reason.
        seconds: wall time of the steps so far, over all processes that took them.
        extended: see `TrainResult`.
    """

    skipped: dict[int, str] = field(default_factory=dict)
    loss: float = 0.0
    logged: int = 0
    kl_to_base: list[float] = field(default_factory=list)
    held_out_skipped: list[tuple[str, int, str]] = field(default_factory=list)
    seconds: float = 0.0
    extended: list[dict[str, int]] = field(default_factory=list)

    def write(self, checkpoint: Path) -> None:
        """Write it into a checkpoint folder."""
        (checkpoint / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, checkpoint: Path) -> "ResumeState":
        """Read it from a checkpoint folder."""
        values = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
        # JSON has no numbers as keys.
        skipped = {int(number): why for number, why in values.pop("skipped").items()}
        return cls(skipped, **values)


class ResumeCallback(TrainerCallback):
    """Calls back where `Trainer` resets state or does not restore it.

    Args:
        restore: called when training begins, after `Trainer` has reset its sums.
        set_epoch: called when an epoch begins, a resumed one too.
    """

    def __init__(self, restore: Callable[[], None], set_epoch: Callable[[], None]) -> None:
        self.restore, self.set_epoch = restore, set_epoch

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Before the first step."""
        self.restore()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Before the first sample of an epoch is read."""
        self.set_epoch()
