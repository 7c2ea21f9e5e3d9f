"""`wings merge --sweep`: measures one merge at several values and chooses one."""

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.compare.paired import format_points
from wings.eval.data import EvalFiles, read_data
from wings.eval.fronts.front import Front, FrontResult
from wings.eval.fronts.front_plot import front_figure
from wings.eval.fronts.measure_front import FrontPoint, measure_front
from wings.eval.fronts.questions import CONVERSATIONS, PICTURES, FrontQuestions
from wings.eval.models import (
    copy_chat_template,
    load_eval_model,
    read_model_type,
    read_senses,
    validate_asked,
)
from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner
from wings.extras import require
from wings.machine import machine, versions
from wings.merge.in_place import InPlaceMerge
from wings.merge.plan import MergePlan
from wings.merge.recipe import MergeRecipe
from wings.merge.recipe_file import recipe_fields
from wings.merge.sweep import Sweep
from wings.output_folder import OutputFolder
from wings.sense import IMAGE

from .claimed import claimed
from .eval_files import DATA, default_files
from .progress import ProgressBars
from .terminal import make_console, make_table

MAKER = "wings merge --sweep"
JSON, CSV, PLOT, RECIPE, CACHE = "front.json", "front.csv", "front.png", "merge.yaml", "cache"
# Of the generated questions: others than those of wings eval and of wings gate.
SEED = 2
# Of each test: half of them to choose by, half to report.
ITEMS = 480
KEEP, BATCH, LONGEST = 2.0, 64, 32
TITLES = {"text": "text alone", CONVERSATIONS: "after an image", PICTURES: "pictures"}


def run_sweep(
    recipe: MergeRecipe,
    values: str,
    output: Path,
    text: Sequence[Path] = (),
    pictures: Sequence[Path] = (),
    conversations: Sequence[Path] = (),
    images: Path | None = None,
    beside: Sequence[str] = (),
    keep_pictures: float = KEEP,
    batch_size: int = BATCH,
    max_new_tokens: int = LONGEST,
) -> Front:
    """Measures all merges and writes the front; processes of torchrun share the work.

    Args:
        recipe: of the merge.
        values: as `Sweep.parse` reads them.
        output: folder of the front. It also caches finished batches, so the same command resumes.
        text, pictures, conversations: records with questions; generated ones without any file.
        images: folder that paths of pictures are relative to; None for the folder of each file.
        beside: further models to compare with, folders or Hub ids.
        keep_pictures: points of pictures that the chosen merge may cost.
        batch_size: conversations per batch.
        max_new_tokens: longest answer, in tokens.

    Raises:
        WingsError: models, values, questions or a folder that do not fit.
    """
    require("eval")
    swept = Sweep.parse(values)
    recipes = swept.recipes(recipe)
    owned = OutputFolder(output, MAKER)
    owned.validate()
    for other in beside:
        read_model_type(other)
    files = EvalFiles(text, pictures, conversations, images=images)
    given = read_data(files)
    questions = FrontQuestions.split(given) if files else None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    plan = MergePlan.of(recipes[0])
    child = plan.kept.source.given
    senses = read_senses(child)
    if not plan.kept.sees or (senses and IMAGE not in senses):
        raise WingsError(
            f"'{child}' takes no pictures, and a sweep weighs pictures against"
            f" text: name a child that does, or merge without --sweep."
        )
    for part, items in given.questions.items():
        validate_asked(child, items, f"--{part}")
    for one in recipes:
        for name in plan.llm.names:
            one.values(name)
    points = [
        FrontPoint(swept.name(value), value, one)
        for value, one in zip(swept.values, recipes, strict=True)
    ]
    with (
        contextlib.closing(Processes()) as processes,
        claimed(owned, processes, CACHE, DATA, JSON, CSV, PLOT, RECIPE),
    ):
        if questions is None:
            files, _ = default_files(child, owned, processes, SEED, ITEMS)
            questions = FrontQuestions.split(read_data(files))
        cache = ResultCache(owned.path / CACHE, processes)
        runner = EvalRunner(processes, cache, batch_size, max_new_tokens)
        front = measure(plan, points, questions, beside, runner, keep_pictures, owned.path)
        processes.wait()
    return front


def measure(
    plan: MergePlan,
    points: Sequence[FrontPoint],
    questions: FrontQuestions,
    beside: Sequence[str],
    runner: EvalRunner,
    keep_pictures: float,
    folder: Path,
) -> Front:
    """Loads the models, measures the front, and lets the first process write and print it."""
    processes = runner.processes
    llm_name, child_name = plan.llm.source.given, plan.kept.source.given
    console = make_console(quiet=not processes.is_first)
    console.print(f"\n{MAKER} {child_name}, into {folder}\n", style="bold")
    for note in plan.notes:
        console.print(f"  {note}")
    with console.status(Text(f"loading {llm_name} and {child_name}")):
        child = load_eval_model(child_name, processes.device)
        llm = load_eval_model(llm_name, processes.device, dtype=child.model.dtype)
        for one, other in ((llm, child), (child, llm)):
            copy_chat_template(one, other)
        merge = InPlaceMerge(plan, child.model)
    load = [
        partial(load_eval_model, other, processes.device, child.model.dtype) for other in beside
    ]
    with ProgressBars(console) as bars:
        shown = replace(runner, progress=bars.update)
        front = measure_front(llm, child, merge, points, load, questions, shown, keep_pictures)
    if processes.is_first:
        write(front, folder, plan)
        show(console, front)
        console.print(f"  The front is in {folder}.")
        chosen = [point.recipe for point in points if point.name == front.chosen.name]
        write_chosen(console, chosen, folder / RECIPE)
    return front


def write(front: Front, folder: Path, plan: MergePlan) -> None:
    """Writes the front as JSON, CSV and PNG."""
    document = {
        "llm": plan.llm.source.shown_name,
        "children": [view.source.shown_name for view in plan.views],
        "method": plan.recipe.method.name,
        "machine": machine(),
        "versions": versions(),
        "front": front.to_dict(),
    }
    (folder / JSON).write_text(json.dumps(document) + "\n", encoding="utf-8")
    front.write_csv(folder / CSV)
    title = f"{plan.recipe.method.name} merges of {plan.kept.source.shown_name}"
    front_figure(front, title).savefig(folder / PLOT, dpi=160)


def write_chosen(console: Console, chosen: Sequence[MergeRecipe], path: Path) -> None:
    """Writes the chosen recipe and prints the command that merges by it; nothing for the child."""
    path.unlink(missing_ok=True)
    for recipe in chosen:
        path.write_text(yaml.safe_dump(recipe_fields(recipe), sort_keys=False), encoding="utf-8")
        command = shlex.join(["wings", "merge", "--config", str(path), "--output", "merged"])
        console.print("  Merge with the chosen value by")
        console.print(Text(f"  {command}\n", style="bold"), soft_wrap=True)


def show(console: Console, front: Front) -> None:
    """Prints a table of all models, the chosen one, and what it gained and lost."""
    tests = list(front.questions.items)
    has_drift = front.child.drift is not None
    headers = [TITLES[test] for test in tests] + ["KL alone", "KL after"] * has_drift
    table = make_table("", *headers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.no_wrap = True
    for result in front.results:
        cells = [str(front.accuracy(result, test)) for test in tests]
        if has_drift:
            cells += drift_cells(front, result)
        table.add_row(result.name + ", chosen" * (result is front.chosen), *cells)
    console.print(table)
    said = "Percent right of the questions that are reported; the choice was made on others."
    if has_drift:
        said += (
            " KL is from the LLM asked alone, in nats a token; its own row has the floor after"
            " words."
        )
    console.print(f"  {said}")
    for note in front.notes:
        console.print(f"  {note}")
    for line in findings(front):
        console.print(f"  {line}")


def drift_cells(front: Front, result: FrontResult) -> list[str]:
    """KL alone and after an image; of the LLM the floor after words; blank where not measured."""
    drift = front.child.drift if result is front.llm else result.drift
    if drift is None:
        return ["", ""]
    kind = drift.kinds[0]
    if result is front.llm:
        return ["0", f"{drift.kl('words', kind).value:.3f}"]
    return [f"{drift.kl(arm, kind).value:.3f}" for arm in ("alone", "after")]


def findings(front: Front) -> list[str]:
    """The choice, and its difference from the unmerged child on the reported questions."""
    chosen = front.chosen
    rule = (
        f"the most text with at least {front.picture_floor:.1f}% of pictures"
        f" ({front.keep_pictures:g} points below the child) on the questions to choose by"
    )
    if chosen is front.child:
        return [f"No merge is better: the child itself has {rule}."]
    changes = [
        f"{TITLES[test]} {format_points(front.difference(chosen, front.child, test))}"
        for test in front.questions.items
    ]
    return [
        f"Chosen: {chosen.name}, {rule}.",
        f"Chosen minus child, in points: {', '.join(changes)}.",
    ]
