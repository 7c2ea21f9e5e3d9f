"""Reads what a model is evaluated on: items, held-out text and tasks, before any weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wings.errors import WingsError
from wings.processing.web_file import is_address

from .documents import Document, read_documents
from .fingerprint import fingerprint
from .items import Item, pictures_of, read_named_items, without_pictures

if TYPE_CHECKING:
    from .harness.tasks import ChosenTasks


@dataclass(frozen=True)
class EvalFiles:
    """Paths and names, as given.

    Attributes:
        text: items without pictures; files, folders or patterns, as in training.
        pictures: items with questions about pictures.
        conversations: items with pictures whose last question is about text.
        held_out: texts, or records of texts or conversations.
        tasks: names of tasks of lm-evaluation-harness.
        include_path: folders of task files that override the harness's own.
        images: folder that paths of pictures are relative to; None for the folder of each file.

    Raises:
        WingsError: `images` without a file that may name pictures.
    """

    text: Sequence[Path] = ()
    pictures: Sequence[Path] = ()
    conversations: Sequence[Path] = ()
    held_out: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    include_path: Sequence[Path] = ()
    images: Path | None = None

    def __post_init__(self) -> None:
        if self.images is not None and not (self.pictures or self.conversations):
            raise WingsError(
                f"--images {self.images} has no effect without --pictures or --conversations: name"
                f" a file with pictures, or leave it out."
            )

    def __bool__(self) -> bool:
        return any(paths for name, paths in vars(self).items() if name != "images")

    def to_dict(self) -> dict[str, Any]:
        """The paths as text, for JSON."""
        lists = {name: value for name, value in vars(self).items() if name != "images"}
        named = {name: [str(path) for path in paths] for name, paths in lists.items()}
        return {**named, "images": None if self.images is None else str(self.images)}


@dataclass(frozen=True)
class EvalData:
    """The content of `EvalFiles`; empty where no file was given."""

    text: Sequence[Item] = ()
    pictures: Sequence[Item] = ()
    conversations: Sequence[Item] = ()
    held_out: Sequence[Document] = ()
    tasks: "ChosenTasks | None" = None

    def digests(self) -> dict[str, str]:
        """A digest of the words of each kind of questions, which reports are compared by.

        Pictures enter by their number, so that another folder gives the same digest.
        """
        parts = {"text": self.text, "pictures": self.pictures, "conversations": self.conversations}
        return {
            name: fingerprint([[without_pictures(i).record(), len(pictures_of(i))] for i in items])
            for name, items in parts.items()
            if items
        }


def read_data(files: EvalFiles) -> EvalData:
    """Reads all items and documents.

    Raises:
        WingsError: an invalid file or record, a picture in a text item, no picture in a picture
            item, or a missing picture file.
    """
    return EvalData(
        text=_read(files, "text", pictures=False),
        pictures=_read(files, "pictures", pictures=True),
        conversations=_read(files, "conversations", pictures=True),
        held_out=read_documents(files.held_out) if files.held_out else (),
        tasks=_tasks(files),
    )


def _tasks(files: EvalFiles) -> "ChosenTasks | None":
    if not files.tasks:
        if files.include_path:
            raise WingsError("--include-path has no effect without --tasks; name the tasks to run.")
        return None
    # The harness is a large optional package.
    from .harness.tasks import choose_tasks

    return choose_tasks(files.tasks, files.include_path)


def _read(files: EvalFiles, part: str, pictures: bool) -> list[Item]:
    items = []
    for path in getattr(files, part):
        for name, item in read_named_items(path, files.images):
            _validate_pictures(item, pictures, f"{name}, given as --{part},")
            items.append(item)
    return items


def _validate_pictures(item: Item, expected: bool, where: str) -> None:
    sources = pictures_of(item)
    if sources and not expected:
        raise WingsError(
            f"{where} has a picture; pass the file as --pictures if the question is about the "
            "picture, else as --conversations."
        )
    if expected and not sources:
        raise WingsError(f"{where} has no picture; pass the file as --text.")
    for source in sources:
        if not is_address(source) and not Path(source).is_file():
            raise WingsError(
                f"{where} shows {source}, which does not exist; correct the path, or name the "
                "folder of the pictures with --images."
            )
