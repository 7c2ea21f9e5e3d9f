"""The study's jobs, for worker processes of one thread: a training, and a row with its scores."""

import json
import time
from pathlib import Path
from typing import Any

from wings import WingsForCausalLM, WingsProcessor
from wings.errors import WingsError
from wings.examples.commit import code_version
from wings.examples.experiment.jobs import train_measured
from wings.examples.experiment.measure import DTYPE
from wings.examples.resumed import DONE
from wings.examples.training import set_up_worker
from wings.merge.in_place import InPlaceMerge
from wings.merge.plan import MergePlan
from wings.merge.recipe_of_command import recipe_of_command
from wings.train.build import load_model
from wings.train.param_groups import plan_groups
from wings.train.run_folder import RunFolder

from .rows import CHOSEN_RULE, COMPOSED, ROWS, TRAININGS, Merge, Row, needed
from .senses_measure import measure_model, measure_untouched
from .senses_recipes import SPEECH, TOWER, training_recipe
from .senses_size import SensesSize

Pair = tuple[WingsForCausalLM, WingsProcessor]


def model_folder(folder: Path, seed: int, name: str) -> Path:
    """The folder of a trained model."""
    return folder / "models" / f"seed{seed}" / name


def train(name: str, seed: int, folder: Path, size: SensesSize) -> dict[str, Any]:
    """Runs a training unless its folder has a record; returns the record.

    Returns:
        see `train_measured`, and `trained` weights by group; or `failed`, the error.
    """
    set_up_worker()
    one, output = TRAININGS[name], model_folder(folder, seed, name)
    if (output / DONE).exists():
        return read_record(folder, seed, name)
    RunFolder(output).owned.remove()
    for earlier in one.earlier:
        if "failed" in (record := read_record(folder, seed, earlier)):
            return write_record(output, {"failed": record["failed"]})
    start = model_folder(folder, seed, one.start) if one.start else None
    if start is not None and one.start == COMPOSED:
        write_composed(folder, seed, start)
    recipe = training_recipe(one, seed, folder, start, output, size)
    try:
        trained = {g.name: g.count for g in plan_groups(load_model(recipe), recipe).trained}
        record = {**train_measured(recipe), "trained": trained}
    except WingsError as error:
        record = {"failed": str(error).replace(str(folder), "FOLDER")}
    return write_record(output, record)


def write_record(output: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns the record of a training."""
    output.mkdir(parents=True, exist_ok=True)
    (output / DONE).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


def read_record(folder: Path, seed: int, name: str) -> dict[str, Any]:
    """The record of a finished training."""
    path = model_folder(folder, seed, name) / DONE
    return json.loads(path.read_text(encoding="utf-8"))


def write_composed(folder: Path, seed: int, output: Path) -> None:
    """Writes the composition that is trained further, unless it is there."""
    if not (output / "config.json").exists():
        model, processor = composed(folder, seed, ROWS[f"{COMPOSED}-{CHOSEN_RULE}"])
        model.save_pretrained(output)
        processor.save_pretrained(output)


def score(key: str, seed: int, folder: Path, size: SensesSize) -> dict[str, Any]:
    """Scores a row, whose trainings are finished.

    Returns:
        what `measure_model` returns; `trained` weights by group; `cpu_seconds` of all trainings
        that the row needs, and `memory_mib`, the most of one; `scoring` seconds; and of the code
        `commit` and `dirty`. Or `failed`, the error of a training.
    """
    set_up_worker()
    row = ROWS[key]
    records = [read_record(folder, seed, one.name) for one in needed(row)]
    for record in records:
        if "failed" in record:
            return {"failed": record["failed"]}
    begin = time.process_time()
    model, processor = load(folder, seed, row)
    llm = folder / "weights" / "llm"
    found = measure_model(model, processor, llm, folder / "data", row.senses, size.text_tokens)
    trained: dict[str, int] = {}
    for record in records:
        trained |= record["trained"]
    return {
        "trained": trained,
        "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 1),
        "memory_mib": max(record["memory_mib"] for record in records),
        "scoring": round(time.process_time() - begin, 1),
        **found,
        **code_version(),
    }


def load(folder: Path, seed: int, row: Row) -> Pair:
    """The model of a row and its processor."""
    model, processor = (composed if len(row.model) > 1 else trained_model)(folder, seed, row)
    if len(row.senses) > 1:
        # Nothing of the weights depends on it.
        model.config.senses_rule = row.rule or CHOSEN_RULE
    return model.eval(), processor


def trained_model(folder: Path, seed: int, row: Row) -> Pair:
    """The model of one training."""
    return read_model(model_folder(folder, seed, row.model[0]))


def composed(folder: Path, seed: int, row: Row) -> Pair:
    """Two models composed; of a merge, after both have the merged LLM."""
    folders = [model_folder(folder, seed, name) for name in row.model]
    pairs = [read_model(one) for one in folders]
    if row.merge is not None:
        for (model, _), kept in zip(pairs, folders, strict=True):
            write_merge(row.merge, folder / "weights" / "llm", folders, kept, model)
    (first, eyes), (second, ears) = pairs
    model = WingsForCausalLM.compose(first, second, rule=row.rule or CHOSEN_RULE)
    return model, WingsProcessor.compose(eyes, ears)


def write_merge(
    merge: Merge, llm: Path, children: list[Path], kept: Path, model: WingsForCausalLM
) -> None:
    """Writes a merge of the children's LLMs into a loaded child.

    Args:
        merge: method, weights and parameters.
        llm: folder of the LLM that all were trained from.
        children: their folders.
        kept: the folder of `model`.
        model: the loaded child.
    """
    sources = [str(llm), *map(str, children)]
    recipe = recipe_of_command(
        sources, merge.method, merge.weights, merge.parameters, None, str(kept)
    )
    InPlaceMerge(MergePlan.of(recipe), model).write(recipe)


def read_model(folder: Path) -> Pair:
    """The model and the processor of a folder."""
    model = WingsForCausalLM.from_pretrained(folder, dtype=DTYPE).eval()
    return model, WingsProcessor.from_pretrained(folder)


def score_llm(folder: Path, size: SensesSize) -> dict[str, Any]:
    """Scores the untouched LLM; see `measure_untouched`."""
    set_up_worker()
    weights = folder / "weights"
    tower = {"model_name": f"local-dir:{weights / 'tower'}", **TOWER}
    ears = {"model_name": str(weights / "whisper"), **SPEECH}
    processor = WingsProcessor.from_pretrained_parts(
        text=str(weights / "llm"), image=tower, audio=ears
    )
    return measure_untouched(weights / "llm", processor, folder / "data", size.text_tokens)
