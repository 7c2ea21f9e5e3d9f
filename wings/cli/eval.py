"""`wings eval`: measures what a checkpoint learned and forgot relative to its LLM."""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.data import EvalFiles, read_data
from wings.eval.evaluation import Evaluation, evaluate
from wings.eval.harness.task_names import validate_task_names
from wings.eval.models import (
    EvalModel,
    copy_chat_template,
    extract_llm,
    load_eval_model,
    load_llm,
    prompt_difference,
    read_model_type,
    validate_asked,
)
from wings.eval.processes import Processes
from wings.eval.provenance import validate_frozen_llm
from wings.eval.report.report import HTML, JSON, Report
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner
from wings.machine import machine, versions
from wings.output_folder import OutputFolder
from wings.upstream.auto_models import is_language_model, reads_images_and_text

from .claimed import claimed
from .eval_files import DATA, SEED, able_files, default_files
from .eval_output import show
from .progress import ProgressBars
from .terminal import make_console

CACHE = "cache"


def evaluate_checkpoint(
    checkpoint: str,
    against: str | None,
    output: Path | None,
    batch_size: int,
    max_new_tokens: int,
    **files: Any,
) -> Path:
    """Measures and writes `report.html` and `report.json`; processes of torchrun share the work.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint, of a composite model of transformers or
            of a language model.
        against: folder or Hub id of the LLM that it was built from; None for the one inside a
            Wings checkpoint, if it was frozen.
        output: folder of the report; None for `wings-eval-NAME`. It also caches finished batches,
            so the same command resumes an interrupted evaluation.
        batch_size: conversations per batch.
        max_new_tokens: longest answer, in tokens.
        **files: fields of `EvalFiles`; the quickstart's items if all are empty.

    Returns:
        The folder.

    Raises:
        WingsError: an invalid model, file or folder.
    """
    validate_task_names(files.get("tasks", ()), files.get("include_path", ()))
    given = EvalFiles(**files)
    with contextlib.closing(Processes()) as processes:
        notes = validate_models(checkpoint, against)
        owned = OutputFolder(output or f"wings-eval-{Path(checkpoint).name}", "wings eval")
        validate_report_folder(owned, checkpoint, against)
        with claimed(owned, processes, CACHE, DATA, JSON, HTML):
            return _measure(
                processes, checkpoint, against, owned, notes, batch_size, max_new_tokens,
                given,
            )  # fmt: skip


def _measure(
    processes: Processes,
    checkpoint: str,
    against: str | None,
    owned: OutputFolder,
    notes: list[str],
    batch_size: int,
    max_new_tokens: int,
    files: EvalFiles,
) -> Path:
    start, folder = time.perf_counter(), owned.path
    if not files:
        files, note = default_files(checkpoint, owned, processes)
        notes.append(note)
        files, note = able_files(files, checkpoint)
        notes += [note] if note else []
    data = read_data(files)
    for part, items in data.questions.items():
        validate_asked(checkpoint, items, f"--{part}")
    cache = ResultCache(folder / CACHE, processes)
    console = make_console(quiet=not processes.is_first)
    console.print(f"\nwings eval {checkpoint}, into {folder}\n", style="bold")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status("loading both models"):
        model, llm = load(checkpoint, against, processes, notes)
    with ProgressBars(console) as bars:
        runner = EvalRunner(processes, cache, batch_size, max_new_tokens, progress=bars.update)
        evaluation = evaluate(llm, model, data, runner)
    notes += evaluation.notes
    if processes.is_first:
        report = make_report(llm, model, evaluation, notes, files, data.digests(), runner, start)
        report.save(owned)
        show(console, report)
        made = f"  Everything is in {folder / HTML} and {folder / JSON}.\n"
        console.print(made, soft_wrap=True)
    processes.wait()
    return folder


def validate_models(checkpoint: str, against: str | None) -> list[str]:
    """Checks, before any weights are read, that both models can be compared; returns notes."""
    kind = read_model_type(checkpoint)
    if against is None and kind == "wings":
        return [validate_frozen_llm(checkpoint)]
    if against is None:
        raise WingsError(
            f"{checkpoint} is a '{kind}' model, which does not record the LLM that it was built "
            "from; name that LLM with --against."
        )
    llm_kind = read_model_type(against)
    if llm_kind == "wings":
        raise WingsError(
            f"--against {against} is a Wings checkpoint; name the LLM that it was built from."
        )
    if reads_images_and_text(llm_kind) and not is_language_model(llm_kind):
        raise WingsError(
            f"--against {against} is a '{llm_kind}' model, which reads images; name the LLM that "
            "it was built from."
        )
    return []


def validate_report_folder(owned: OutputFolder, checkpoint: str, against: str | None) -> None:
    """Raises a `WingsError` if a folder has other content than this evaluation."""
    owned.validate()
    folder = owned.path
    if (folder / JSON).is_file():
        try:
            inputs = json.loads((folder / JSON).read_text(encoding="utf-8"))["inputs"]
        except (ValueError, KeyError, TypeError):
            inputs = {}
        if (inputs.get("checkpoint"), inputs.get("against")) != (checkpoint, against):
            raise WingsError(
                f"{folder} holds the report of {inputs.get('checkpoint')} against "
                f"{inputs.get('against')}; name another folder with --output."
            )


def load(
    checkpoint: str, against: str | None, processes: Processes, notes: list[str]
) -> tuple[EvalModel, EvalModel]:
    """Loads the model and the LLM in the checkpoint's dtype, so that both round alike."""
    model = load_eval_model(checkpoint, processes.device)
    if against is None:
        llm = extract_llm(model)
    else:
        llm = load_llm(against, processes.device, dtype=model.model.dtype)
    for one, other in ((llm, model), (model, llm)):
        if copy_chat_template(one, other):
            notes.append(f"{one.name} has no chat template; that of {other.name} is used.")
    if prompt_difference(llm, model):
        notes.append(
            f"The chat templates of {llm.name} and {model.name} give a question different tokens, "
            "so a difference in text may come from the template."
        )
    return model, llm


def make_report(
    llm: EvalModel,
    model: EvalModel,
    evaluation: Evaluation,
    notes: Sequence[str],
    files: EvalFiles,
    questions: dict[str, str],
    runner: EvalRunner,
    start: float,
) -> Report:
    """The report of an evaluation."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    seconds = round(time.perf_counter() - start, 1)
    used = versions()
    processes = runner.processes
    device = str(processes.device)
    if processes.device.type == "cuda":
        device = torch.cuda.get_device_name(processes.device)
    command = shlex.join(["wings", *sys.argv[1:]])
    about = {
        "model": f"{model.name} ({model.kind}, {model.parameters:,} parameters)",
        "LLM": f"{llm.name} ({llm.kind}, {llm.parameters:,} parameters)",
        "made": f"{date}, in {seconds:,.0f} s on {device}, {processes.count} process(es)",
        "with": f"wings {used['wings-lorra']}, torch {used['torch']}, transformers "
        f"{used['transformers']}, {model.to_dict()['dtype']}",
        "command": command,
    }
    against = None if llm.name.startswith("the LLM inside") else llm.name
    document: dict[str, Any] = {
        "inputs": {
            "checkpoint": model.name,
            "against": against,
            "files": files.to_dict(),
            "questions": questions,
        },
        "command": command,
        "date": date,
        "seconds": seconds,
        "device": device,
        "processes": processes.count,
        "machine": machine(),
        "versions": used,
        "settings": {"batch_size": runner.batch_size, "max_new_tokens": runner.max_new_tokens},
        "seeds": {"bootstrap": runner.seed, "generated items": SEED},
        "model": model.to_dict(),
        "llm": llm.to_dict(),
        "notes": list(notes),
        "verdict": evaluation.verdict,
        "measurements": evaluation.to_dict(),
    }
    title = f"{Path(model.name).name}: what it learned, what it forgot"
    sections, samples = evaluation.sections, evaluation.samples
    return Report(title, about, notes, sections, samples, document, evaluation.verdict)
