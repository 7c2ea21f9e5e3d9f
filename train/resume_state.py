"""Carried: what a run knows beside weights, optimiser and random state, kept in a checkpoint."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "carried.json"


@dataclass
class Carried:
    """What makes the figures of a resumed run those of one that was never interrupted.

    Attributes:
        skipped: records passed over so far on all processes, with the reason.
        loss: sum of the losses since they were last logged, a mean over the processes.
        logged: step at which they were.
        kl_to_base: sum of the KL to the LLM since it was last logged and its tokens, over the
            processes; nothing where there is none.
    """

    skipped: dict[int, str] = field(default_factory=dict)
    loss: float = 0.0
    logged: int = 0
    kl_to_base: list[float] = field(default_factory=list)

    def write(self, checkpoint: Path) -> None:
        """Put it into a checkpoint that is being written."""
        (checkpoint / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, checkpoint: Path) -> "Carried":
        """What a whole checkpoint holds."""
        values = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
        # JSON has no numbers for keys.
        skipped = {int(number): why for number, why in values.pop("skipped").items()}
        return cls(skipped, **values)


class Resume(TrainerCallback):
    """Calls back where `Trainer` forgets something.

    Args:
        take_up: called when training begins; `Trainer` has set its sums to nothing by then.
        begin_epoch: called when an epoch begins, a resumed one too.
    """

    def __init__(self, take_up: Callable[[], None], begin_epoch: Callable[[], None]) -> None:
        self.take_up, self.begin_epoch = take_up, begin_epoch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step."""
        self.take_up()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first sample of an epoch is asked for."""
        self.begin_epoch()
