"""The best evaluation of a run: the lowest value of one figure on held-out records."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from accelerate import PartialState
from accelerate.utils import gather_object

from wings.errors import WingsError
from wings.train.recipe import Evaluate

from .metrics.evaluate import evaluations, renamed
from .run_folder import RunFolder
from .signals import DistributedStop


def validate_best_set(evaluate: Evaluate, sets: Collection[str]) -> None:
    """Raise a `WingsError` if the set of `evaluate.best` is not evaluated in this run.

    Args:
        evaluate: of the recipe.
        sets: names of the sets that the run evaluates.
    """
    figure = evaluate.best_figure
    if figure is not None and figure.split("/")[1] not in sets:
        raise WingsError(
            f"evaluate.best: {figure} is not measured, as the data have no records for that set;"
            f" this run evaluates {', '.join(sets) or 'none'}."
        )


@dataclass(frozen=True)
class BestEvaluation:
    """The evaluation with the lowest value of a figure, the first of equal ones.

    Attributes:
        step: of the evaluation, whose checkpoint the run keeps.
        figure: logged name, such as `eval/text/loss`.
        value: of the figure.
        start: its value before the first step.
    """

    step: int
    figure: str
    value: float
    start: float

    @classmethod
    def of(cls, history: Sequence[dict[str, float]], figure: str | None) -> "BestEvaluation | None":
        """The best evaluation after the first step in a log; None without one, or a figure."""
        if figure is None:
            return None
        entries = [renamed(entry) for entry in evaluations(history)]
        values = {int(entry["step"]): entry[figure] for entry in entries if figure in entry}
        start = values.pop(0, math.nan)
        finite = {step: value for step, value in values.items() if math.isfinite(value)}
        if not finite:
            return None
        step = min(finite, key=lambda step: (finite[step], step))
        return cls(step, figure, finite[step], start)

    def describe(self, model_step: int) -> str:
        """One line for the end of a run whose model has the weights of `model_step`."""
        worse = f", more than the {self.start:.4f} of the start" * (self.value > self.start)
        return (
            f"best: {self.figure} {self.value:.4f} at step {self.step:,}{worse}; the model is that"
            f" of step {model_step:,}"
        )

    def validate_whole(self, folder: RunFolder) -> None:
        """Check that the checkpoint of this evaluation is whole; all processes share the reading.

        Raises:
            DistributedStop: a file of it is missing or changed.
        """
        state, checkpoint = PartialState(), folder.checkpoint(self.step)
        share = state.process_index, state.num_processes
        problems = [one for one in gather_object([folder.problem(checkpoint, share)]) if one]
        if problems:
            raise DistributedStop(
                f"evaluate.load_best: {checkpoint}, the best by {self.figure}, is not whole"
                f" ({problems[0]}); restore it, or set evaluate.load_best=false to end with the"
                " last weights."
            )
