"""`wings eval`: what a checkpoint learned and forgot, measured against the LLM it grew from."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.data import Files, read_data
from wings.eval.evaluation import Evaluation, evaluate
from wings.eval.models import (
    EvalModel,
    copy_chat_template,
    extract_llm,
    load_eval_model,
    read_model_type,
)
from wings.eval.processes import Ranks
from wings.eval.provenance import validate_frozen_llm
from wings.eval.report.machine import machine, versions
from wings.eval.report.report import HTML, JSON, Report
from wings.eval.report.section import Section
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner

from .eval_data import SEED, find_files
from .progress import ProgressBars

CACHE = "cache"


def run(
    checkpoint: str,
    against: str | None,
    files: Files,
    output: Path | None,
    batch_size: int,
    max_new_tokens: int,
) -> Path:
    """Measures and writes `report.html` and `report.json`; torchrun's ranks share the work.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint or of a language model.
        against: folder or Hub id of the LLM that it grew from; None takes it out of a Wings
            checkpoint, if it stayed frozen.
        files: what is asked; the quickstart's items where none is given.
        output: folder of the report; None for `wings-eval-NAME`. Answers of finished batches are
            kept in it, so the same command goes on after a break.
        batch_size: conversations that are answered together.
        max_new_tokens: where an answer is cut.

    Returns:
        The folder.

    Raises:
        WingsError: a model, a file or a folder that cannot be used.
    """
    ranks = Ranks()
    try:
        return _run(ranks, checkpoint, against, files, output, batch_size, max_new_tokens)
    finally:
        ranks.leave()


def _run(
    ranks: Ranks,
    checkpoint: str,
    against: str | None,
    files: Files,
    output: Path | None,
    batch_size: int,
    max_new_tokens: int,
) -> Path:
    begun = time.perf_counter()
    for name, value in (("--batch-size", batch_size), ("--max-new-tokens", max_new_tokens)):
        if value < 1:
            raise WingsError(f"{name} is {value}, but must be at least 1")
    notes = validate_models(checkpoint, against)
    folder = output or Path(f"wings-eval-{Path(checkpoint).name}")
    validate_report_folder(folder, checkpoint, against)
    ranks.wait()
    if not files:
        files, sentence = find_files(checkpoint, folder, ranks)
        notes.append(sentence)
    data = read_data(files)
    cache = ResultCache(folder / CACHE, ranks)
    console = Console(highlight=False, quiet=not ranks.is_first)
    console.print(f"\n[bold]wings eval[/] {checkpoint}, into [bold]{folder}[/]\n")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status("loading both models"):
        model, llm = load(checkpoint, against, ranks, notes)
    with ProgressBars(console) as bars:
        runner = EvalRunner(ranks, cache, batch_size, max_new_tokens, progress=bars.update)
        evaluation = evaluate(llm, model, data, runner)
    notes += evaluation.notes
    if ranks.is_first:
        report = make_report(llm, model, evaluation, notes, files, runner, begun)
        report.save(folder)
        show(console, report)
        console.print(f"  Everything is in [bold]{folder / HTML}[/] and {folder / JSON}.\n")
    ranks.wait()
    return folder


def validate_models(checkpoint: str, against: str | None) -> list[str]:
    """Refuses models that cannot be compared, before any weights are read; returns notes."""
    kind = read_model_type(checkpoint)
    if against is None and kind == "wings":
        return [validate_frozen_llm(checkpoint)]
    if against is None:
        raise WingsError(
            f"{checkpoint} is a plain '{kind}' model, so nothing in it says what it grew from; "
            "name that LLM with --against"
        )
    if read_model_type(against) == "wings":
        raise WingsError(f"--against {against} is a Wings checkpoint; name the LLM it grew from")
    return []


def validate_report_folder(folder: Path, checkpoint: str, against: str | None) -> None:
    """Raises a `WingsError` where a folder holds something else than this evaluation."""
    if folder.exists() and not folder.is_dir():
        raise WingsError(f"--output {folder} is a file; name a folder")
    if (folder / JSON).is_file():
        try:
            asked = json.loads((folder / JSON).read_text(encoding="utf-8"))["asked"]
        except (ValueError, KeyError, TypeError):
            asked = {}
        if (asked.get("checkpoint"), asked.get("against")) != (checkpoint, against):
            raise WingsError(
                f"{folder} holds the report of {asked.get('checkpoint')} against "
                f"{asked.get('against')}; name another folder with --output"
            )
    elif folder.exists() and any(folder.iterdir()) and not (folder / CACHE).is_dir():
        raise WingsError(f"{folder} is there already and holds no report; name another --output")


def load(
    checkpoint: str, against: str | None, ranks: Ranks, notes: list[str]
) -> tuple[EvalModel, EvalModel]:
    """The model and the LLM, both in the checkpoint's type: a fair comparison rounds alike."""
    model = load_eval_model(checkpoint, ranks.device)
    if against is None:
        llm = extract_llm(model)
    else:
        llm = load_eval_model(against, ranks.device, dtype=model.model.dtype)
    for one, other in ((llm, model), (model, llm)):
        if copy_chat_template(one, other):
            notes.append(f"{one.name} has no chat template; it is asked with that of {other.name}")
    return model, llm


def make_report(
    llm: EvalModel,
    model: EvalModel,
    evaluation: Evaluation,
    notes: Sequence[str],
    files: Files,
    runner: EvalRunner,
    begun: float,
) -> Report:
    """The report of an evaluation."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    seconds = round(time.perf_counter() - begun, 1)
    of = versions()
    device = str(runner.ranks.device)
    if runner.ranks.device.type == "cuda":
        device = torch.cuda.get_device_name(runner.ranks.device)
    command = shlex.join(["wings", *sys.argv[1:]])
    about = {
        "model": f"{model.name} ({model.kind}, {model.to_dict()['parameters']:,} parameters)",
        "LLM": f"{llm.name} ({llm.kind}, {llm.to_dict()['parameters']:,} parameters)",
        "made": f"{date}, in {seconds:,.0f} s on {device}, {runner.ranks.count} process(es)",
        "with": f"wings {of['wings-lorra']}, torch {of['torch']}, transformers "
        f"{of['transformers']}, {model.to_dict()['dtype']}",
        "command": command,
    }
    against = None if llm.name.startswith("the LLM inside") else llm.name
    document: dict[str, Any] = {
        "asked": {"checkpoint": model.name, "against": against, "files": files.to_dict()},
        "command": command,
        "date": date,
        "seconds": seconds,
        "device": device,
        "processes": runner.ranks.count,
        "machine": machine(),
        "versions": of,
        "settings": {"batch_size": runner.batch_size, "max_new_tokens": runner.max_new_tokens},
        "seeds": {"bootstrap": runner.seed, "items made on the spot": SEED},
        "model": model.to_dict(),
        "llm": llm.to_dict(),
        "notes": list(notes),
        "measurements": evaluation.to_dict(),
    }
    title = f"{Path(model.name).name}: what it learned, what it forgot"
    return Report(title, about, notes, evaluation.sections, evaluation.samples, document)


def show(console: Console, report: Report) -> None:
    """Prints the tables."""
    for section in report.sections:
        console.print(table_of(section), "")
    for note in report.notes:
        console.print(f"  {note}.", style="dim", markup=False)
    console.print()


def table_of(section: Section) -> Table:
    """A section's table as a terminal shows it."""
    table = Table(
        title=section.title, title_style="bold", title_justify="left", box=SIMPLE_HEAD,
        pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for n, header in enumerate(section.rows[0]):
        table.add_column(header, justify="right" if n else "left", no_wrap=n > 0)
    for row in section.rows[1:]:
        table.add_row(*row)
    return table
