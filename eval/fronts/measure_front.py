"""Measures the merges of one child, and the models to compare them with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wings.errors import WingsError
from wings.eval.fingerprint import model_fingerprint
from wings.eval.items import without_sources
from wings.eval.models import EvalModel
from wings.eval.runner import EvalRunner
from wings.eval.scoring.score import score_all
from wings.eval.sense_drift import SenseDrift, measure_sense_drift
from wings.merge.in_place import InPlaceMerge
from wings.merge.recipe import MergeRecipe

from .front import Front, FrontResult
from .questions import CONVERSATIONS, TEXT, FrontQuestions

LLM, CHILD = "the LLM", "the child, unmerged"


@dataclass(frozen=True)
class FrontPoint:
    """A merge to measure.

    Attributes:
        name: in tables.
        value: of the parameter that is swept; None where none is.
        recipe: of the merge.
    """

    name: str
    value: float | None
    recipe: MergeRecipe


def measure_front(
    llm: EvalModel,
    child: EvalModel,
    merge: InPlaceMerge,
    points: Sequence[FrontPoint],
    others: Sequence[Callable[[], EvalModel]],
    questions: FrontQuestions,
    runner: EvalRunner,
    keep_pictures: float,
) -> Front:
    """Scores all models; `child` has the weights of the last point afterwards.

    All processes must call it. Every batch is cached, so that the same call goes on.

    Args:
        llm: the language model.
        child: freshly loaded; accepts pictures.
        merge: writes into its weights.
        points: the merges.
        others: load further models to compare with, one at a time.
        questions: see `FrontQuestions`.
        runner: shared settings of the measurement.
        keep_pictures: points of pictures that the chosen merge may cost.

    Raises:
        WingsError: see `EvalRunner.compute` and `InPlaceMerge.write`. Where KL cannot be measured,
            as with another chat template, a note says so.
    """
    notes: list[str] = []
    blind = replace_pictures(questions)
    base = FrontResult(LLM, None, _scores(llm, blind, runner, LLM))

    def measure(model: EvalModel, name: str, value: float | None, has_kl: bool) -> FrontResult:
        scores = _scores(model, questions, runner, name)
        drift: SenseDrift | None = None
        if has_kl:
            try:
                drift = _drift(llm, model, questions, runner, name)
            except WingsError as error:
                notes.append(f"KL of {name} is skipped: {error}")
        return FrontResult(name, value, scores, drift)

    has_kl = CONVERSATIONS in questions.items
    unmerged = measure(child, CHILD, None, has_kl)
    marks = []
    for load in others:
        other = load()
        marks.append(measure(other, Path(other.name).name, None, has_kl))
    merges = []
    for point in points:
        merge.write(point.recipe)
        mark = model_fingerprint(child.model, child.processor)
        merged = replace(child, fingerprint=mark)
        merges.append(measure(merged, point.name, point.value, unmerged.drift is not None))
    return Front(questions, base, unmerged, merges, marks, keep_pictures, runner.seed, notes)


def replace_pictures(questions: FrontQuestions) -> FrontQuestions:
    """The questions without pictures, as the LLM is asked them."""
    blind = {
        test: [without_sources(item) for item in items] for test, items in questions.items.items()
    }
    return replace(questions, items=blind)


def _drift(
    llm: EvalModel, model: EvalModel, questions: FrontQuestions, runner: EvalRunner, name: str
) -> SenseDrift:
    """The drift on the answers to the conversations that are reported."""
    named = replace(
        runner, progress=lambda _, done, total: runner.progress(f"{name}: KL", done, total)
    )
    return measure_sense_drift(llm, model, questions.reported(CONVERSATIONS), named)


def _scores(
    model: EvalModel, questions: FrontQuestions, runner: EvalRunner, name: str
) -> dict[str, list[float]]:
    found = {}
    for test, items in questions.items.items():
        asked = [without_sources(item) for item in items] if test == TEXT else items
        answers = runner.answers(model, asked, f"{name}: {test}")
        found[test] = score_all(items, answers)
    return found
