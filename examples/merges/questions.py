"""The questions of the merge results: one part to choose by, another to report."""

from pathlib import Path

from wings.eval.data import EvalData, EvalFiles, read_data
from wings.eval.fronts.questions import FrontQuestions
from wings.eval.items import Item, read_items
from wings.examples.quickstart.dataset import QuickstartAmounts, Writer
from wings.examples.resumed import make_whole
from wings.output_folder import OutputFolder

from .children import QUICKSTART, Family

SEED, COUNT = 1021, 480  # of the quickstart's questions; trainings have other seeds
NAMES = ("text", "pictures", "mixed")
# SmolLM2 answers slowly: every second or fourth question of the experiment is asked.
EVERY = {"validation": 2, "test": 4}


def questions_of(work: OutputFolder, family: Family) -> FrontQuestions:
    """The questions for the children of an LLM; all seeds get the same."""
    if family.base == QUICKSTART:
        folder = make_whole(work, f"questions-{QUICKSTART}", _draw)
        text, pictures, mixed = ((folder / f"{name}_held_out.jsonl",) for name in NAMES)
        return FrontQuestions.split(read_data(EvalFiles(text, pictures, mixed)))
    return FrontQuestions.of(_part(family.data, "validation"), _part(family.data, "test"))


def _draw(folder: Path) -> None:
    amounts = QuickstartAmounts(text=0, captions=0, conversations=0, held_out=COUNT)
    Writer(folder, SEED).write(amounts)


def _part(data: Path, part: str) -> EvalData:
    text, pictures, mixed = (_items(data, name, part) for name in NAMES)
    return EvalData(text, pictures, mixed)


def _items(data: Path, name: str, part: str) -> list[Item]:
    return read_items(data / f"{name}_{part}.jsonl")[:: EVERY[part]]
