"""`wings gate`: puts a gate on a finished checkpoint, with its value chosen on validation items."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text
from transformers.utils import logging

from wings.errors import WingsError
from wings.eval.data import EvalData, EvalFiles, read_data
from wings.eval.gates.gate_curve import GateCurve, measure_curve
from wings.eval.gates.gate_plot import curve_figure
from wings.eval.gates.gate_setting import (
    GAINS,
    TAUS,
    all_settings,
    has_gate,
    validate_can_be_gated,
)
from wings.eval.models import load_eval_model, read_model_type, read_senses, validate_asked
from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner
from wings.eval.scoring.accuracy import overall
from wings.eval.senses import HEARD, SEEN, EvalSense, names_in
from wings.model.causal_lm import WingsForCausalLM
from wings.output_folder import OutputFolder
from wings.processing.processor import WingsProcessor

from .claimed import claimed
from .eval_files import DATA, default_files
from .new_checkpoint import CONFIG, validate_new_checkpoint
from .progress import ProgressBars
from .terminal import make_console, make_table

MAKER = "wings gate"
JSON, CSV, PLOT, CACHE = "gate.json", "gate.csv", "gate.png", "cache"
# Of the generated questions: others than those of wings eval, which should not see the choice.
SEED = 1


def gate(
    checkpoint: str,
    pictures: Sequence[Path],
    sounds: Sequence[Path],
    conversations: Sequence[Path],
    images: Path | None,
    report: Path | None,
    output: Path | None,
    keep: float,
    gains: Sequence[float],
    taus: Sequence[float],
    batch_size: int,
    max_new_tokens: int,
) -> GateCurve:
    """Measures all gates and writes the curve; with `output` saves the checkpoint with the chosen.

    Args:
        checkpoint: folder or Hub id of a Wings checkpoint with learners.
        pictures: records with questions about pictures, for validation.
        sounds: the same about sounds, for a gate on the attention to sounds instead.
        conversations: the same with pictures (or sounds) and a last question about text. Without
            both files questions about pictures are generated.
        images: folder that paths of pictures and sounds are relative to; None for the folder of
            each file.
        report: folder of the curve; None for `wings-gate-NAME`. It also caches finished batches, so
            the same command resumes.
        output: a new folder for the checkpoint with the gate; None to save none.
        keep: points of pictures (or sounds) that the gate may cost.
        gains, taus: values to try; empty for the default ones.
        batch_size: conversations per batch.
        max_new_tokens: longest answer, in tokens.

    Raises:
        WingsError: an invalid checkpoint, file or folder.
    """
    target = None if output is None else OutputFolder(output, MAKER)
    if target is not None:
        validate_new_checkpoint(target)
    if read_model_type(checkpoint) != "wings":
        raise WingsError(f"{checkpoint} is no Wings checkpoint; name one with learners.")
    if pictures and sounds:
        raise WingsError("A gate is of one sense: give --pictures or --sounds, and run both.")
    if bool(pictures or sounds) != bool(conversations):
        raise WingsError(
            "A gate is chosen on both: give --pictures and --conversations, or none; or --sounds "
            "and --conversations."
        )
    sense = HEARD if sounds else SEEN
    (name,) = sense.names
    if not sounds and name not in read_senses(checkpoint):
        raise WingsError(
            f"{checkpoint} does not {sense.verb}, so there is no gate on pictures to choose: give "
            "--sounds and --conversations."
        )
    given = EvalFiles(pictures=pictures, sounds=sounds, conversations=conversations, images=images)
    folder = report or Path(f"wings-gate-{Path(checkpoint).name}")
    owned = OutputFolder(folder, MAKER, "--report")
    owned.validate()
    with (
        contextlib.closing(Processes()) as processes,
        claimed(owned, processes, CACHE, DATA, JSON, CSV, PLOT),
    ):
        data = read_questions(checkpoint, given, owned, processes)
        validate_questions(checkpoint, data, sense)
        console = make_console(quiet=not processes.is_first)
        console.print(f"\nwings gate {checkpoint}, into {folder}\n", style="bold")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        with console.status(Text(f"loading {checkpoint}")):
            model = load_eval_model(checkpoint, processes.device)
        assert isinstance(model.model, WingsForCausalLM)
        validate_can_be_gated(checkpoint, model.model, name)
        has_router = has_gate(model.model, name)
        settings = all_settings(has_router, tuple(gains) or GAINS, tuple(taus) or TAUS, name)
        cache = ResultCache(folder / CACHE, processes)
        with ProgressBars(console) as bars:
            runner = EvalRunner(processes, cache, batch_size, max_new_tokens, progress=bars.update)
            questions = getattr(data, sense.questions)
            curve = measure_curve(model, data.conversations, questions, settings, runner, keep)
        if processes.is_first:
            write(curve, folder, checkpoint)
            show(console, curve)
            console.print(f"  The curve is in {folder}.")
            if target is not None:
                save(checkpoint, curve, target)
                what = "with the gate" if curve.chosen.setting.gate != "none" else "without a gate"
                console.print(f"  The checkpoint {what} is in {output}.")
        processes.wait()
    return curve


def read_questions(
    checkpoint: str, given: EvalFiles, owned: OutputFolder, processes: Processes
) -> EvalData:
    """The validation items: those of the files, or generated ones."""
    if given:
        return read_data(given)
    files, _ = default_files(checkpoint, owned, processes, seed=SEED)
    return read_data(EvalFiles(pictures=files.pictures, conversations=files.conversations))


def validate_questions(checkpoint: str, data: EvalData, sense: EvalSense) -> None:
    """Raises a `WingsError` for items of a sense that a gate of another one does not change."""
    for part, items in data.questions.items():
        validate_asked(checkpoint, items, f"--{part}")
    for item in data.conversations:
        if names_in(item.messages) != sense.names:
            raise WingsError(
                f"--conversations has one about {item.kind!r} with other items than "
                f"{sense.nouns}: a gate is of one sense, so give conversations with "
                f"{sense.nouns} alone."
            )


def write(curve: GateCurve, folder: Path, checkpoint: str) -> None:
    """Writes the curve as JSON, CSV and PNG."""
    document = {"checkpoint": checkpoint, **curve.to_dict()}
    (folder / JSON).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    curve.write_csv(folder / CSV)
    curve_figure(curve, f"Gates on {Path(checkpoint).name}").savefig(folder / PLOT, dpi=160)


def show(console: Console, curve: GateCurve) -> None:
    """Prints a table of all settings and names the chosen one."""
    one, many = curve.sense.one, curve.sense.questions
    table = make_table("gate", f"text after {one}", many, "")
    for result in curve.results:
        percents = (str(overall(kinds.values())) for kinds in (result.text, result.questions))
        table.add_row(result.setting.name, *percents, "chosen" * (result is curve.chosen))
    console.print(table)
    chosen, setting = curve.chosen, curve.chosen.setting
    if setting.gate in ("none", "saved"):
        how = "without one" if setting.gate == "none" else "as saved"
        said = (
            f"No gate is better: {how} the model gets {chosen.text_percent:.1f}% of text after "
            f"{one}, and no gate gets more at {curve.question_floor:.1f}% of {many}."
        )
    else:
        said = (
            f"Chosen: {setting.name}, the most text after {one} with at least "
            f"{curve.question_floor:.1f}% of {many} ({curve.keep:g} points below the "
            "model without a gate)."
        )
    console.print(f"  {said}")


def save(checkpoint: str, curve: GateCurve, target: OutputFolder) -> None:
    """Saves the checkpoint with the chosen gate, and its processor."""
    # Loaded again: the measured model has been changed from gate to gate.
    model = WingsForCausalLM.from_pretrained(checkpoint)
    curve.chosen.setting.put_on(model)
    with target.locked():
        draft = target.draft("model")
        model.save_pretrained(draft)
        WingsProcessor.from_pretrained(checkpoint).save_pretrained(draft)
        target.place(draft, last=CONFIG)
