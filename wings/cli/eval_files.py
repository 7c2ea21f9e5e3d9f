"""The questions of commands without a file: those of a quickstart, or generated ones."""

from dataclasses import replace
from pathlib import Path

from wings.eval.data import EvalFiles
from wings.eval.models import read_senses
from wings.eval.processes import Processes
from wings.output_folder import OutputFolder
from wings.processing.item_encoder import AUDIO
from wings.sense import IMAGE

DATA = "data"
# Default items: those of the quickstart.
SEED = 0
DEFAULT_FILES = "text_held_out.jsonl", "pictures_held_out.jsonl", "mixed_held_out.jsonl"
# Those of a quickstart that hears, the latter with the senses that they need.
SOUNDS = "sounds_held_out.jsonl"
AFTER_FILES = {
    "text_after_sound_held_out.jsonl": (AUDIO,),
    "text_after_both_held_out.jsonl": (IMAGE, AUDIO),
}
TAUGHT = "facts"  # about an invented island; only models trained on them can answer
ITEMS = 240


def default_files(
    checkpoint: str,
    owned: OutputFolder,
    processes: Processes,
    seed: int = SEED,
    count: int | None = None,
) -> tuple[EvalFiles, str]:
    """The quickstart's own items for its checkpoints; else items that are generated there.

    Items of another seed than `SEED` are always generated, so that none is one of a test.

    Returns:
        The files, and a sentence on their origin.
    """
    quickstart = Path(checkpoint).resolve().parent.parent / "data"
    if seed == SEED and all((quickstart / name).is_file() for name in DEFAULT_FILES):
        return _eval_files(quickstart), (
            f"No file was given; the held-out items of {quickstart} are used."
        )
    generated = owned.path / DATA
    if processes.is_first and not generated.exists():
        draft = owned.draft("items")
        generate_items(draft / DATA, seed, count)
        owned.place(draft)
    processes.wait()
    return _eval_files(generated), (
        "No file was given; drawings, small sums and word puzzles were generated. Pass your own "
        "files to measure more."
    )


def able_files(files: EvalFiles, checkpoint: str) -> tuple[EvalFiles, str]:
    """The files of `default_files` that a checkpoint can be asked, with those of a quickstart.

    A plain language model is asked all of them, as `evaluate` tells what it lacks.

    Returns:
        The files, and a sentence if there are none with sounds for a checkpoint that hears.
    """
    senses, folder = read_senses(checkpoint), files.text[0].parent
    if senses and IMAGE not in senses:
        files = EvalFiles(files.text, held_out=files.held_out)
    if AUDIO not in senses:
        return files, ""
    sounds = [path for path in [folder / SOUNDS] if path.is_file()]
    after = [folder / name for name, needs in AFTER_FILES.items() if {*needs} <= {*senses}]
    after = [path for path in after if path.is_file()]
    files = replace(files, sounds=sounds, conversations=(*files.conversations, *after))
    if sounds:
        return files, ""
    return files, "No sounds were generated; give --sounds, and --conversations with some."


def generate_items(folder: Path, seed: int = SEED, count: int | None = None) -> None:
    """Writes items that need only their own content or common knowledge, to a new folder.

    Args:
        folder: of the files.
        seed: of the items.
        count: items of each file before those are left out that only some models were taught;
            None for `ITEMS`.
    """
    from wings.examples.conversations import read_lines, write_lines
    from wings.examples.quickstart.dataset import QuickstartAmounts, Writer

    Writer(folder, seed).write(
        QuickstartAmounts(text=0, captions=0, conversations=0, held_out=count or ITEMS)
    )
    for name in DEFAULT_FILES:
        records = [record for record in read_lines(folder / name) if record["kind"] != TAUGHT]
        write_lines(folder / name, records)
    for name in ("captions.jsonl", "pictures.jsonl"):
        (folder / name).unlink()


def _eval_files(folder: Path) -> EvalFiles:
    text, pictures, mixed = (folder / name for name in DEFAULT_FILES)
    return EvalFiles((text,), (pictures,), (mixed,), held_out=(text,))
