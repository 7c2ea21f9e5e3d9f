"""The parts of lm-evaluation-harness that Wings uses: `hf` model, registry and tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from ..errors import WingsError
from .contract import Contract

try:
    import datasets
    import lm_eval
    from lm_eval import __version__ as HARNESS_VERSION
    from lm_eval import evaluator
    from lm_eval.api.registry import model_registry
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise WingsError(
        "The package lm_eval is not installed: run pip install 'wings-lorra[harness]'."
    ) from error

__all__ = ["HARNESS_VERSION", "HFLM", "TaskManager", "datasets", "simple_evaluate"]

# The harness's logger; its messages are not part of a report.
LOGGER = "lm_eval"


def simple_evaluate(*args: Any, **options: Any) -> dict[str, Any]:
    """The harness's function of this name, which does not ask git for a commit.

    Outside a repository git would write its own error to the terminal, once a call.
    """
    with mock.patch.object(evaluator, "get_git_commit_hash", lambda: None):
        return lm_eval.simple_evaluate(*args, **options)


class HarnessModel(HFLM):
    """The harness's `hf` model, whose private steps call methods with plain names."""

    def on_load_error(self, pretrained: Any, error: Exception) -> Exception:
        """Returns the error to raise where there is no model at `pretrained`."""
        return error

    def _get_config(self, pretrained: str, **options: Any) -> None:
        """Fails first where there is no model."""
        try:
            super()._get_config(pretrained, **options)
        except (OSError, ValueError) as error:
            raise self.on_load_error(pretrained, error) from error

    def _create_model(self, pretrained: str, **options: Any) -> None:
        try:
            super()._create_model(pretrained, **options)
        except OSError as error:
            raise self.on_load_error(pretrained, error) from error


def register_model(name: str, model: type[HFLM]) -> None:
    """Makes `name` one of the harness's models."""
    import lm_eval.models  # noqa: F401  its own models come first, or it would skip them

    if name not in model_registry:
        model_registry.register(name, target=model)


def command_line() -> Callable[[], Any]:
    """The harness's own command line."""
    from lm_eval.__main__ import cli_evaluate

    return cli_evaluate


def task_source(manager: TaskManager, name: str) -> tuple[Path | None, dict[str, Any] | None]:
    """Returns a task's file (None for one in code) and its configuration so far."""
    entry = manager.task_index[name]
    path = entry.yaml_path
    return None if path is None else Path(path), entry.cfg


def load_tasks(manager: TaskManager, name: str) -> dict[str, Any]:
    """Loads the tasks of a name or group, by their own names, with their data."""
    return manager.load([name])["tasks"]


def _check_tasks() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "contract.yaml"
        records = Path(folder) / "records.jsonl"
        records.write_text('{"q": "1+1=", "a": "2"}\n')
        file.write_text(
            "task: wings_contract\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
            f"    test: {records}\ntest_split: test\noutput_type: generate_until\n"
            "doc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\ngeneration_kwargs: {until: ['.']}\n"
        )
        manager = TaskManager(include_path=[folder], include_defaults=False)
        assert "wings_contract" in manager.all_tasks, "a task file of a folder is not found"
        path, config = task_source(manager, "wings_contract")
        assert path == file and isinstance(config, dict | None), "a task does not name its file"
        task = load_tasks(manager, "wings_contract")["wings_contract"]
        assert task.doc_to_text(next(iter(task.test_docs()))) == "1+1=", "a task reads no records"


CONTRACTS = (
    Contract(
        "lm_eval",
        "0.4.13",
        "HFLM loads in _get_config and _create_model, encodes in tok_encode and tok_batch_encode, "
        "and models are found in model_registry",
        (
            "lm_eval.models.huggingface:HFLM(pretrained, backend, tokenizer, batch_size)",
            "lm_eval.models.huggingface:HFLM._get_config(pretrained)",
            "lm_eval.models.huggingface:HFLM._create_model(pretrained)",
            "lm_eval.models.huggingface:HFLM.tok_encode(string)",
            "lm_eval.models.huggingface:HFLM.tok_batch_encode(strings, padding_side, "
            "left_truncate_len, truncation)",
            "lm_eval.api.registry:model_registry.register",
            "lm_eval.__main__:cli_evaluate",
            "lm_eval:simple_evaluate(model, tasks, task_manager, bootstrap_iters, log_samples)",
            "lm_eval.evaluator:get_git_commit_hash",
        ),
    ),
    Contract(
        "lm_eval",
        "0.4.13",
        "TaskManager knows names in all_tasks and all_subtasks, where each is written in "
        "task_index, and load([name])['tasks'] reads them",
        (
            "lm_eval.tasks:TaskManager(include_path, include_defaults)",
            "lm_eval.tasks:TaskManager.all_subtasks",
            "lm_eval.tasks:TaskManager.match_tasks",
            "lm_eval.tasks:TaskManager.load",
        ),
        check=_check_tasks,
    ),
)
