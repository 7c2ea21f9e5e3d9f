"""The models that are merged: children of the quickstart's LLM and of SmolLM2."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from wings.examples.experiment.packages import Packages
from wings.examples.experiment.studies import STAGES
from wings.examples.experiment.trial import make_data
from wings.examples.quickstart.dataset import QuickstartAmounts, QuickstartSize, Writer
from wings.examples.quickstart.jobs import ASSETS
from wings.examples.quickstart.methods import METHODS, Method, align_recipe, instruct_recipe
from wings.examples.resumed import finish, make_whole
from wings.examples.training import group_rates, make_recipe, train_short_rows, unwatched
from wings.examples.weights import write_weights
from wings.output_folder import OutputFolder
from wings.train.result import TrainResult
from wings.train.run import train

QUICKSTART, SMOLLM2 = "quickstart", "smollm2"
# Of data, new weights and order, in both stages.
SEEDS = {QUICKSTART: (21, 22, 23), SMOLLM2: (0,)}
# child -> the quickstart's method
METHOD_KEYS = {"full": "full-fast", "gentle": "full-slow", "wings": "wings-fast"}
# The first experiment's rates, steps and learners: a third of the blocks has learners.
LAYERS = list(range(0, 30, 3))
RATE = 5e-4  # of projector, learners and router
LLM_RATES = {"full": 2e-5, "gentle": 5e-6, "wings": 2e-5}
TOWER = {"pool": 2, "image_size": 112}
STEPS = {"align": 200, "instruct": 75}
COMMON: dict[str, Any] = {"batch_size": 16, "max_length": 320, "bf16": True}
TITLES = {
    "full": "full fine-tune",
    "gentle": "gentle full fine-tune",
    "wings": "Wings as published, LLM trained",
}


@dataclass(frozen=True)
class Family:
    """The children of one LLM with one seed.

    Attributes:
        base: `QUICKSTART` or `SMOLLM2`.
        seed: of data, new weights and order.
        llm: folder of the LLM.
        data: folder of the data that the children are trained on.
        folders: child -> its folder.
    """

    base: str
    seed: int
    llm: Path
    data: Path
    folders: dict[str, Path]


def train_family(work: OutputFolder, base: str, seed: int) -> Family:
    """Trains the children that are missing in `work`."""
    make = quickstart_family if base == QUICKSTART else smollm2_family
    return make(work, seed)


def quickstart_family(work: OutputFolder, seed: int) -> Family:
    """The quickstart's fine-tunes and Wings with a trained LLM."""
    data = make_whole(work, f"data-{QUICKSTART}-{seed}", lambda folder: draw(folder, seed))
    methods = {method.key: method for method in METHODS}
    folders = {}
    for child, key in METHOD_KEYS.items():
        method = methods[key]
        kind = "learner" if method.wings["learners"] else "projector"
        align = partial(quickstart_align, method, data, seed)
        start = finish(work, f"{QUICKSTART}-align-{kind}-{seed}", align)
        instruct = partial(quickstart_instruct, method, data, start, seed)
        folders[child] = finish(work, f"{QUICKSTART}-{child}-{seed}", instruct)
    return Family(QUICKSTART, seed, ASSETS / "llm", data, folders)


def draw(folder: Path, seed: int) -> None:
    """Writes captions and conversations of the quickstart's size."""
    Writer(folder, seed).write(QuickstartAmounts(text=0, held_out=0))


def quickstart_align(method: Method, data: Path, seed: int, output: Path) -> TrainResult:
    """Runs the first stage of a method."""
    steps = QuickstartSize().align_steps
    return train(align_recipe(method, data, ASSETS, output, steps, seed), watch=unwatched)


def quickstart_instruct(
    method: Method, data: Path, start: Path, seed: int, output: Path
) -> TrainResult:
    """Runs the second stage of a method."""
    steps = QuickstartSize().instruct_steps
    return train(instruct_recipe(method, data, start, output, steps, seed), watch=unwatched)


def smollm2_family(work: OutputFolder, seed: int) -> Family:
    """SmolLM2's fine-tunes and Wings as published, on the experiment's pictures."""
    work.record(SMOLLM2)
    folder = work.path / SMOLLM2
    folder.mkdir(exist_ok=True)
    write_weights(folder / "weights")
    make_data(STAGES, folder, STAGES.size, Packages(), Console())
    folders = {}
    for child in LLM_RATES:
        kind = "learner" if child == "wings" else "projector"
        align = partial(smollm2_align, kind, folder, seed)
        start = finish(work, f"{SMOLLM2}-align-{kind}-{seed}", align)
        instruct = partial(smollm2_instruct, child, folder, start, seed)
        folders[child] = finish(work, f"{SMOLLM2}-{child}-{seed}", instruct)
    return Family(SMOLLM2, seed, folder / "weights" / "llm", folder / "data", folders)


def smollm2_align(kind: str, folder: Path, seed: int, output: Path) -> TrainResult:
    """Runs the first stage: the LLM is frozen; Wings trains its image learner too."""
    wings: dict[str, Any] = {"learners": []}
    if kind == "learner":
        wings = {"learners": ["image"], "learner_layers": LAYERS}
    tower = f"local-dir:{folder / 'weights' / 'tower'}"
    model = {"vision": {"model_name": tower, **TOWER}, "text": str(folder / "weights" / "llm")}
    recipe = make_recipe(
        "align", folder / "data", {"align": None}, output, wings, group_rates(wings, RATE, RATE),
        model=model, steps=STEPS["align"], seed=seed, **COMMON,
    )  # fmt: skip
    return train_short_rows(recipe, unwatched)


def smollm2_instruct(child: str, folder: Path, start: Path, seed: int, output: Path) -> TrainResult:
    """Runs the second stage: the whole LLM is trained."""
    wings: dict[str, Any] = {"learners": [], "router": None}
    if child == "wings":
        wings = {"learners": ["image", "text"], "router": "position"}
    rates = group_rates(wings, RATE, RATE) | {"language_model": LLM_RATES[child]}
    recipe = make_recipe(
        "instruct", folder / "data", {"instruct": None}, output, wings, rates, start=str(start),
        freeze_llm=False, steps=STEPS["instruct"], seed=seed, **COMMON,
    )  # fmt: skip
    return train_short_rows(recipe, unwatched)
