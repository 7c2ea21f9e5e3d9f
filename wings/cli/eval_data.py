"""What `wings eval` asks where no file is given: the quickstart's held-out items."""

from pathlib import Path

from wings.eval.data import Files
from wings.eval.processes import Ranks

SEED = 0
OWN = "text_held_out.jsonl", "pictures_held_out.jsonl", "mixed_held_out.jsonl"
# Of an invented island, which nobody knows that has not been taught it.
TAUGHT = "facts"
ITEMS = 240


def find_files(checkpoint: str, folder: Path, ranks: Ranks) -> tuple[Files, str]:
    """The quickstart's own items for its checkpoints, else items that are made in `folder`.

    Returns:
        The files, and a sentence on where they are from.
    """
    own = Path(checkpoint).resolve().parent.parent / "data"
    if all((own / name).is_file() for name in OWN):
        return _files(own), f"no file was given: asked are the held-out items of {own}"
    made = folder / "data"
    if ranks.is_first and not made.exists():
        make(made)
    ranks.wait()
    return _files(made), (
        "no file was given: asked is what the package makes on the spot, drawings, small sums, and "
        "words to turn round; give files of your own for anything more"
    )


def make(folder: Path) -> None:
    """Writes items that ask for nothing but what stands in them, or what everybody knows."""
    from wings.examples.quickstart.dataset import Writer, read_lines, write_lines
    from wings.examples.quickstart.size import Amounts

    writing = folder.with_name("writing-data")
    if writing.exists():
        for path in (*writing.glob("img/*"), *writing.glob("*.jsonl")):
            path.unlink()
        (writing / "img").rmdir()
    Writer(writing, SEED).write(Amounts(text=0, captions=0, conversations=0, held_out=ITEMS))
    for name in OWN:
        records = [record for record in read_lines(writing / name) if record["kind"] != TAUGHT]
        write_lines(writing / name, records)
    for name in ("captions.jsonl", "pictures.jsonl"):
        (writing / name).unlink()
    writing.rename(folder)


def _files(folder: Path) -> Files:
    text, pictures, mixed = (folder / name for name in OWN)
    return Files((text,), (pictures,), (mixed,), held_out=(text,))
