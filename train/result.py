"""`TrainResult`: what a finished run returns and writes to `result.json`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .distributed import is_first_process
from .run_folder import RESULT, RunFolder


@dataclass
class TrainResult:
    """Result of a run, over all its processes and resumes.

    Attributes:
        folder: contains model and processor, for `WingsForCausalLM.from_pretrained`.
        steps: optimiser steps of the whole run.
        seconds: wall time of these steps; work that a kill lost does not count.
        history: metrics of every logged step: `step`, `loss`, `grad_norm`, `rate/GROUP`, `skipped`,
            `tokens_per_second`, `padding`, `image_tokens`, `audio_tokens` and, if available, `mfu`,
            `memory_gib`,
            `kl_to_base` and `gate/LEARNER/BLOCK`.
        evaluations: `step`, `eval/NAME/loss` and `eval/NAME/rise` of every evaluation.
        stopped: reason for an early end, or None.
        skipped: a sentence per skipped record.
        extended: `step` and `steps` of every time that a run of `steps` went on with more of them;
            the learning rates up to that step are those of the shorter run.
        best: `step`, `figure`, `value` and `start` of the best evaluation by `evaluate.best`; see
            `BestEvaluation`.
        model_step: step whose weights the model has: the last one, or that of `best`.
        versions: releases that the run ended with, and this package's commit in a checkout.
    """

    folder: Path
    steps: int
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    skipped: list[str] = field(default_factory=list)
    extended: list[dict[str, int]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    model_step: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        """Loss of every logged step, a mean over the steps since the last one."""
        return [entry["loss"] for entry in self.history]

    @classmethod
    def read(cls, folder: RunFolder) -> "TrainResult":
        """The result of a finished run.

        Raises:
            OSError, ValueError: missing, or damaged.
        """
        return cls(**{**folder.read_result(), "folder": folder.path})

    def to_json(self) -> str:
        """The content of `result.json`; the folder may be moved and is left out."""
        return json.dumps({**asdict(self), "folder": None}, indent=1)


def report_skipped(skipped: Sequence[str], shown: int = 5) -> None:
    """Print how many records were skipped, and the reasons of the first."""
    print(f"{len(skipped):,} records were skipped:")
    for sentence in skipped[:shown]:
        print(f"  {sentence}")
    if len(skipped) > shown:
        print(f"  and {len(skipped) - shown:,} more, all in {RESULT}")


def whole_result(folder: RunFolder) -> TrainResult | None:
    """The result of a finished run; None if a part of its model is lost and to be written again.

    Raises:
        WingsError: a file of it changed.
    """
    # On several processes one reads the weights for all.
    is_first = is_first_process()
    problem = folder.model_problem(with_content=is_first)
    if problem is None:
        return TrainResult.read(folder)
    if not problem.endswith(("missing", "missing or damaged")):
        raise WingsError(
            f"output: {folder.path} contains a finished run, but {problem} since; restore the file,"
            f" or delete {RESULT} to write the model again."
        )
    if is_first:
        print(
            f"output: {folder.path} contains a finished run, but {problem}; the run goes on from"
            " its last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
    return None
