"""Writes task files that run stock tasks on local files, for machines without a network.

`python -m wings.eval.harness.offline DATA` reads `DATA/<task>/<split>.jsonl` (or .parquet, .csv) in
the task's own format. It writes `DATA/<task>.yaml`, which includes the stock task and reads these
files. `--include_path DATA` then overrides the stock tasks; the group `wings_files` has them all.
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
MARK = "# Written by wings.eval.harness.offline, and written anew by it.\n"
READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
SPLITS = ("training_split", "validation_split", "test_split")


def write_tasks(data: Path, stock: TaskManager | None = None) -> list[str]:
    """Writes `DATA/<task>.yaml` for every folder of `DATA`, and the group; returns the tasks.

    Args:
        data: contains a folder a task.
        stock: the index of the stock tasks; read if not given, which takes a few seconds.

    Raises:
        WingsError: a folder that is not named after a task, a missing file of a split that the task
            needs, a record without a field that the task reads.
    """
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if not folders:
        raise WingsError(
            f"{data} has no folder of a task; add one, such as {data}/arc_easy/test.jsonl."
        )
    stock = stock or TaskManager()
    configs = {folder.name: _config(folder, stock) for folder in folders}
    for name in (*configs, GROUP):
        _validate_is_own(data / f"{name}.yaml")
    for name, config in configs.items():
        _write(data / f"{name}.yaml", config)
    group = {"group": GROUP, "task": list(configs), "metadata": {"version": 1.0}}
    _write(data / f"{GROUP}.yaml", group)
    ours = TaskManager(include_path=str(data), include_defaults=False)
    for name in configs:
        _try_first_record(name, data / name, ours)
    return list(configs)


def _validate_is_own(file: Path) -> None:
    """Raises a `WingsError` if there is a file that this program did not write."""
    if file.exists() and not file.read_bytes().startswith(MARK.encode()):
        raise WingsError(
            f"{file} was not written by wings.eval.harness.offline; move it elsewhere."
        )


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(MARK + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _config(folder: Path, stock: TaskManager) -> dict[str, Any]:
    """The content of a task file: what it changes in the stock task."""
    name = folder.name
    if name not in stock.all_subtasks:
        if name in stock.all_tasks:
            first = stock.match_tasks([name + "_*"])[:1]
            reason = f"is a group of tasks; name the folder after one of them, such as {first}"
        else:
            close = nearest(name, stock.all_subtasks)
            reason = f"is no task of lm-evaluation-harness{close}; rename the folder"
        raise WingsError(f"{folder}: {name} {reason}.")
    path, known = task_source(stock, name)
    config = known or {}
    files = {one.stem: one for one in sorted(folder.iterdir()) if one.suffix in READERS}
    readers = {READERS[one.suffix] for one in files.values()}
    if len(readers) > 1:
        raise WingsError(f"{folder} mixes {' and '.join(sorted(readers))} files; use one kind.")
    split = config.get("test_split") or config.get("validation_split")
    if split not in files:
        raise WingsError(
            f"{folder} has no file of split {split!r}, which {name} needs; add {split}.jsonl."
        )
    if missing := _missing_fields(config, files[split], min(readers)):
        raise WingsError(
            f"Records of {files[split]} have no {', '.join(missing)}; {name} needs these fields."
        )
    shown = config.get("fewshot_split") or config.get("training_split") or split
    drawn = (config.get("fewshot_config") or {}).get("samples") is None
    if config.get("num_fewshot") and drawn and shown not in files:
        raise WingsError(
            f"{name} shows {config['num_fewshot']} examples from split {shown!r}; add "
            f"{folder}/{shown}.jsonl."
        )
    gone = {one: None for one in SPLITS if config.get(one) and config[one] not in files}
    if config.get("fewshot_split") and config["fewshot_split"] not in files:
        gone["fewshot_split"] = None
    return {
        "include": str(path),
        "task": name,
        "dataset_path": readers.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {name: str(one.resolve()) for name, one in files.items()}},
        **gone,
    }


def _try_first_record(name: str, folder: Path, ours: TaskManager) -> None:
    """Reads the first record as the task does, to report wrong fields before a long run."""
    try:
        task = load_tasks(ours, name)[name]
        docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
        doc = next(iter(docs))
        task.doc_to_text(doc), task.doc_to_target(doc)
        if task.OUTPUT_TYPE == "multiple_choice":
            task.doc_to_choice(doc)
    except (OSError, ImportError) as error:
        raise WingsError(
            f"{folder} is valid, but {name} needs more than records ({type(error).__name__}: "
            f"{first_line(error)}); remove the folder if that is not available."
        ) from error
    # Functions of a task may raise anything on records of another format.
    except Exception as error:
        reason = first_line(error) or "no records"
        raise WingsError(
            f"{folder} cannot be read as {name} ({type(error).__name__}: {reason}); use records "
            "with the fields of the task's own data."
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _missing_fields(config: dict[str, Any], file: Path, reader: str) -> list[str]:
    """Fields that a task's templates use and the records do not have."""
    if "process_docs" in config:
        return []  # the task computes the templates' fields
    records = datasets.load_dataset(reader, data_files=str(file.resolve()), split="train")
    templates = [config.get(name) for name in ("doc_to_text", "doc_to_target", "doc_to_choice")]
    used = set()
    for template in templates:
        if isinstance(template, str):
            used |= jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
    # The harness adds this one to few-shot examples.
    return sorted(used - set(records.column_names) - {"is_fewshot"})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wings.eval.harness.offline DATA")
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    try:
        names = write_tasks(Path(sys.argv[1]))
    except WingsError as error:
        sys.exit(str(error))
    print(f"--include_path {sys.argv[1]} --tasks {','.join(names)}")
