"""Reads what a model is evaluated on: items, held-out text and tasks, before any weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wings.errors import WingsError
from wings.extras import require
from wings.processing.item_encoder import AUDIO
from wings.processing.web_file import is_address
from wings.records.formats import items_of

from .documents import Document, read_documents
from .fingerprint import fingerprint
from .items import Item, read_named_items, without_sources
from .senses import SEEN, SENSES, names_in

if TYPE_CHECKING:
    from .harness.tasks import ChosenTasks


@dataclass(frozen=True)
class EvalFiles:
    """Paths and names, as given.

    Attributes:
        text: items without pictures and sounds; files, folders or patterns, as in training.
        pictures: items with questions about pictures.
        conversations: items with pictures or sounds whose last question is about text.
        held_out: texts, or records of texts or conversations.
        tasks: names of tasks of lm-evaluation-harness.
        include_path: folders of task files that override the harness's own.
        images: folder that paths of pictures and sounds are relative to; None for the folder of
            each file.
        sounds: items with questions about sounds.

    Raises:
        WingsError: `images` without a file that may name pictures or sounds.
    """

    text: Sequence[Path] = ()
    pictures: Sequence[Path] = ()
    conversations: Sequence[Path] = ()
    held_out: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    include_path: Sequence[Path] = ()
    images: Path | None = None
    sounds: Sequence[Path] = ()

    def __post_init__(self) -> None:
        named = self.pictures or self.conversations or self.sounds
        if self.images is not None and not named:
            raise WingsError(
                f"--images {self.images} has no effect without --pictures or --conversations: name"
                f" a file with pictures or sounds, or leave it out."
            )

    def __bool__(self) -> bool:
        return any(paths for name, paths in vars(self).items() if name != "images")

    def to_dict(self) -> dict[str, Any]:
        """The paths as text, for JSON; no sounds where none are given."""
        lists = {
            name: value
            for name, value in vars(self).items()
            if name != "images" and (value or name != "sounds")
        }
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
    sounds: Sequence[Item] = ()

    @property
    def questions(self) -> dict[str, Sequence[Item]]:
        """The items of the parts that have any, by the names of their options."""
        names = ("text", *(sense.questions for sense in SENSES.values()), "conversations")
        return {name: items for name in names if (items := getattr(self, name))}

    def digests(self) -> dict[str, str]:
        """A digest of the words of each kind of questions, which reports are compared by.

        Pictures and sounds enter by their number, so that another folder gives the same digest.
        """
        return {
            name: fingerprint(
                [[without_sources(one).record(), len(items_of(one.messages))] for one in items]
            )
            for name, items in self.questions.items()
        }


def read_data(files: EvalFiles) -> EvalData:
    """Reads all items and documents.

    Raises:
        WingsError: an invalid file or record, a picture or sound in a text item, none in another
            item, or a missing file.
    """
    return EvalData(
        text=_read(files, "text"),
        pictures=_read(files, "pictures"),
        conversations=_read(files, "conversations"),
        held_out=read_documents(files.held_out) if files.held_out else (),
        tasks=_tasks(files),
        sounds=_read(files, "sounds"),
    )


def _tasks(files: EvalFiles) -> "ChosenTasks | None":
    if not files.tasks:
        if files.include_path:
            raise WingsError("--include-path has no effect without --tasks; name the tasks to run.")
        return None
    # The harness is a large optional package.
    from .harness.tasks import choose_tasks

    return choose_tasks(files.tasks, files.include_path)


def _read(files: EvalFiles, part: str) -> list[Item]:
    items = []
    for path in getattr(files, part):
        for name, item in read_named_items(path, files.images):
            _validate_sources(item, part, f"{name}, given as --{part},")
            items.append(item)
    return items


def _validate_sources(item: Item, part: str, where: str) -> None:
    """Raises a `WingsError` for a picture or sound too many, too few, or without a file."""
    names = names_in(item.messages)
    if part == "text" and names:
        sense = SENSES[names[0]]
        raise WingsError(
            f"{where} has a {sense.noun}; pass the file as --{sense.questions} if the question is "
            f"about the {sense.noun}, else as --conversations."
        )
    wanted = [sense for sense in SENSES.values() if sense.questions == part] or [*SENSES.values()]
    if part != "text" and not any(sense.names[0] in names for sense in wanted):
        nouns = " or ".join(sense.noun for sense in wanted)
        other = SENSES[names[0]].questions if names else "text"
        raise WingsError(f"{where} has no {nouns}; pass the file as --{other}.")
    for kind, source in items_of(item.messages):
        if kind == AUDIO:
            require("audio")
        is_path = isinstance(source, str) and not is_address(source)
        if is_path and not Path(source).is_file():
            verb = "shows" if kind == SEEN.key else "plays"
            raise WingsError(
                f"{where} {verb} {source}, which does not exist; correct the path, or name the "
                f"folder of the {SENSES[kind].nouns} with --images."
            )
