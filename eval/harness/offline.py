"""Stock tasks on files of one's own, for a machine without a network.

`python -m wings.eval.harness.offline DATA` finds `DATA/<task>/<split>.jsonl` (or .parquet, .csv) in
the task's own format and writes beside it a task file of the same name that includes the stock one
and reads these files. `--include_path DATA` then puts them in the stock tasks' place, and the group
`wings_files` is all of them.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import jinja2.meta
import yaml

from wings.errors import WingsError, nearest
from wings.upstream.harness import LOGGER, TaskManager, datasets, load_tasks, task_source

GROUP = "wings_files"
READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
SPLITS = ("training_split", "validation_split", "test_split")


def write_tasks(data: Path, stock: TaskManager | None = None) -> list[str]:
    """Writes `DATA/<task>.yaml` for every folder of `DATA`, and the group's; the tasks' names.

    Args:
        data: the folder of folders.
        stock: an index of the stock tasks; one is read without it, which takes a few seconds.

    Raises:
        WingsError: a folder that is no task's name or a group's, a split that the task needs and
            has no file, a record without a field that the task reads.
    """
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if not folders:
        raise WingsError(f"{data} has no folder of a task; make one, as {data}/arc_easy/test.jsonl")
    stock = stock or TaskManager()
    configs = {folder.name: _config(folder, stock) for folder in folders}
    for name, config in configs.items():
        (data / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    group = {"group": GROUP, "task": list(configs), "metadata": {"version": 1.0}}
    (data / f"{GROUP}.yaml").write_text(yaml.safe_dump(group, sort_keys=False))
    ours = TaskManager(include_path=str(data), include_defaults=False)
    for name in configs:
        _try(name, data / name, ours)
    return list(configs)


def _config(folder: Path, stock: TaskManager) -> dict[str, Any]:
    """What a task file says beyond the stock one."""
    name = folder.name
    if name not in stock.all_subtasks:
        if name in stock.all_tasks:
            what = (
                f"is a group of tasks; name one of them, as {stock.match_tasks([name + '_*'])[:1]}"
            )
        else:
            what = f"is no task of lm-evaluation-harness{nearest(name, stock.all_subtasks)}"
        raise WingsError(f"{folder}: {name} {what}")
    path, known = task_source(stock, name)
    config = known or {}
    files = {one.stem: one for one in sorted(folder.iterdir()) if one.suffix in READERS}
    readers = {READERS[one.suffix] for one in files.values()}
    if len(readers) > 1:
        raise WingsError(f"{folder} mixes {' and '.join(sorted(readers))} files; give one kind")
    asked = config.get("test_split") or config.get("validation_split")
    if asked not in files:
        raise WingsError(
            f"{folder} has no file of split {asked!r}, which {name} asks; add {asked}.jsonl to it"
        )
    if lacking := _lacking(config, files[asked], min(readers)):
        raise WingsError(f"records of {files[asked]} have no {', '.join(lacking)}; {name} reads it")
    shown = config.get("fewshot_split") or config.get("training_split") or asked
    drawn = (config.get("fewshot_config") or {}).get("samples") is None
    if config.get("num_fewshot") and drawn and shown not in files:
        raise WingsError(
            f"{name} shows {config['num_fewshot']} examples from split {shown!r}; add "
            f"{folder}/{shown}.jsonl"
        )
    gone = {one: None for one in SPLITS if config.get(one) and config[one] not in files}
    if config.get("fewshot_split") and config["fewshot_split"] not in files:
        gone["fewshot_split"] = None
    return {
        "include": str(path),
        "task": name,
        "dataset_path": readers.pop(),
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(one.resolve()) for split, one in files.items()}
        },
        **gone,
    }


def _try(name: str, folder: Path, ours: TaskManager) -> None:
    """Reads the first record as the task does: a wrong field is told here, not in a long run."""
    try:
        task = load_tasks(ours, name)[name]
        docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
        doc = next(iter(docs))
        task.doc_to_text(doc), task.doc_to_target(doc)
        if task.OUTPUT_TYPE == "multiple_choice":
            task.doc_to_choice(doc)
    except (OSError, ImportError) as error:
        raise WingsError(
            f"{folder} is there, but {name} needs more than records ({type(error).__name__}: "
            f"{first_line(error)}); leave it out where that cannot be had"
        ) from error
    # A task's own functions may fail in any way on records that are not theirs.
    except Exception as error:
        reason = first_line(error) or "no records"
        raise WingsError(
            f"{folder} cannot be read as {name} ({type(error).__name__}: {reason}); give records "
            "with the fields of the task's own data"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0]


def _lacking(config: dict[str, Any], file: Path, reader: str) -> list[str]:
    """Fields that the templates of a task name and the first record has not."""
    if "process_docs" in config:
        return []  # what the templates read is made of the record
    records = datasets.load_dataset(reader, data_files=str(file.resolve()), split="train")
    templates = [config.get(name) for name in ("doc_to_text", "doc_to_target", "doc_to_choice")]
    named = set()
    for template in templates:
        if isinstance(template, str):
            named |= jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
    # The harness adds this one to examples that are shown.
    return sorted(named - set(records.column_names) - {"is_fewshot"})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wings.eval.harness.offline DATA")
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    try:
        found = write_tasks(Path(sys.argv[1]))
    except WingsError as error:
        sys.exit(str(error))
    print(f"--include_path {sys.argv[1]} --tasks {','.join(found)}")
