"""What a model is measured on: items of three kinds and held-out text, read before any weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wings.errors import WingsError

from .documents import Document, read_documents
from .items import Item, pictures_of, read_items

if TYPE_CHECKING:
    from .harness.chosen import ChosenTasks


@dataclass(frozen=True)
class Files:
    """Paths, as they were given.

    Attributes:
        text: items without pictures.
        pictures: items that ask about pictures.
        conversations: items with pictures whose last question is about text.
        held_out: texts, or JSON Lines of texts or conversations.
        tasks: names of tasks of lm-evaluation-harness.
        include_path: folders of task files that go before the harness's own.
    """

    text: Sequence[Path] = ()
    pictures: Sequence[Path] = ()
    conversations: Sequence[Path] = ()
    held_out: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    include_path: Sequence[Path] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def to_dict(self) -> dict[str, list[str]]:
        """The paths as text."""
        return {name: [str(path) for path in paths] for name, paths in vars(self).items()}


@dataclass(frozen=True)
class Data:
    """What the files hold; a kind of which none was given is empty."""

    text: Sequence[Item] = ()
    pictures: Sequence[Item] = ()
    conversations: Sequence[Item] = ()
    held_out: Sequence[Document] = field(default_factory=tuple)
    tasks: "ChosenTasks | None" = None


def read_data(files: Files) -> Data:
    """All items and documents.

    Raises:
        WingsError: a file or record that cannot be used, a picture where none belongs, none where
            one does, or one that is not there.
    """
    return Data(
        text=_items(files.text, pictures=False, option="--text"),
        pictures=_items(files.pictures, pictures=True, option="--pictures"),
        conversations=_items(files.conversations, pictures=True, option="--conversations"),
        held_out=read_documents(files.held_out) if files.held_out else (),
        tasks=_tasks(files),
    )


def _tasks(files: Files) -> "ChosenTasks | None":
    if not files.tasks:
        if files.include_path:
            raise WingsError("--include-path is of use with --tasks alone; name tasks to ask")
        return None
    # The harness is a large package, and not everybody's.
    from .harness.chosen import choose_tasks

    return choose_tasks(files.tasks, files.include_path)


def _items(paths: Sequence[Path], pictures: bool, option: str) -> list[Item]:
    found = []
    for path in paths:
        for number, item in enumerate(read_items(path), 1):
            _check(item, pictures, f"record {number} of {path}, given as {option},")
            found.append(item)
    return found


def _check(item: Item, wanted: bool, where: str) -> None:
    sources: list[Any] = pictures_of(item)
    if sources and not wanted:
        raise WingsError(
            f"{where} has a picture; give it as --pictures if it is asked about the picture, as "
            "--conversations if not"
        )
    if wanted and not sources:
        raise WingsError(f"{where} has no picture; give it as --text")
    for source in sources:
        is_path = isinstance(source, str) and not source.startswith(("http", "data:"))
        if is_path and not Path(source).is_file():
            raise WingsError(f"{where} shows {source}, which is not there")
