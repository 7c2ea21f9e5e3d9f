"""The content of a push: the files of a checkpoint without local paths, the card and its plot."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.saved_files import missing, validate_files

from .card import PLOT, is_filled_in, is_placeholder, make_card
from .card_facts import WINGS, CardOptions, lacks, model_type, named_bases, read_facts
from .local_paths import BASE_KEY
from .repository import RemoteState
from .retention import (
    REPORT,
    find_report,
    read_report,
    read_retention,
    shared_report,
    validate_report,
)
from .shared_files import CARD, MERGED, SharedFile, select_files

NOUN = "Wings checkpoint"
CONFIG = "config.json"
PROCESSOR = ("processor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Parcel:
    """Files that go up, and what stays.

    Attributes:
        files: by name.
        left_out: names that stay -> why.
        notes: sentences on the card and the report.
    """

    files: Sequence[SharedFile]
    left_out: Mapping[str, str]
    notes: Sequence[str] = ()

    @property
    def card(self) -> str:
        """The text of README.md; "" without one."""
        found = [file for file in self.files if file.name == CARD]
        return text_of(found[0]) if found else ""

    @property
    def kind(self) -> str:
        """`model_type` of the model."""
        config = next(file for file in self.files if file.name == CONFIG)
        return model_type(json.loads(text_of(config)))

    def without_card(self, note: str) -> "Parcel":
        """Returns the parcel without its card, so that the card on the Hub stays."""
        files = [file for file in self.files if file.name != CARD]
        return replace(self, files=files, notes=[*self.notes, note])


def validate_checkpoint(folder: Path, with_processor: bool = True) -> None:
    """Checks by its files that a folder has a whole Wings checkpoint or a merged model.

    No weights are loaded.

    Raises:
        WingsError: no such folder, another kind of model, or a file that is damaged or missing.
    """
    if not folder.is_dir():
        raise WingsError(missing(folder, NOUN, "name a folder that a training run wrote"))
    names = {path.name for path in folder.iterdir()}
    if CONFIG not in names:
        hint = "; it has checkpoints of a run that is not finished" if _has_run(names) else ""
        raise WingsError(
            f"The folder '{folder}' holds no finished checkpoint, as it has no {CONFIG}{hint}: name"
            f" the folder that save_pretrained or a finished training run wrote."
        )
    validate_files(folder, NOUN, thorough=True)
    if not any(name.endswith(".safetensors") for name in names):
        raise WingsError(f"The folder '{folder}' has no weights (*.safetensors): save it again.")
    kind = model_type(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    if kind == WINGS:
        lost = [name for name in PROCESSOR if name not in names]
    elif MERGED in names:
        lost = [name for name in PROCESSOR[1:] if name not in names]
    else:
        raise WingsError(
            f"The folder '{folder}' holds a '{kind}' model, which is neither a Wings checkpoint nor"
            f" a result of wings merge: push it with its own push_to_hub."
        )
    if with_processor and lost:
        raise WingsError(
            f"The folder '{folder}' has no {lost[0]}, so nobody could ask the model anything: save"
            f" the processor into it with save_pretrained."
        )


def _has_run(names: set[str]) -> bool:
    return any(name.startswith("checkpoint-") for name in names)


def pack(
    folder: Path,
    name: str,
    options: CardOptions,
    *,
    origin: Path | None = None,
    include: Sequence[str] = (),
    report: Path | None = None,
    new_card: bool = False,
    plot: Callable[[Mapping[str, Any]], bytes | None] | None = None,
) -> Parcel:
    """Chooses and prepares what goes up; nothing in the folder is changed.

    Args:
        folder: of a valid checkpoint.
        name: of the repository.
        options: what the user states in the card.
        origin: folder of the run that made it, if that is another one.
        include: patterns of further files.
        report: folder of `wings eval`; None for the newest one of this checkpoint nearby.
        new_card: also replace a card that somebody wrote or edited.
        plot: draws a report as PNG.

    Raises:
        WingsError: a report of another checkpoint, or a file that cannot be shared.
    """
    selection = select_files(folder, include)
    files = {file.name: file for file in selection.files}
    files[CONFIG], notes = with_bases(files[CONFIG], options)
    own = files.get(CARD)
    if own is not None and not new_card and not is_replaceable(text_of(own)):
        notes.append("README.md is the folder's own and stays as it is")
        return Parcel([files[key] for key in sorted(files)], selection.left_out, notes)
    content, where = _report_of(origin or folder, report)
    if content is None:
        notes.append("no report of wings eval was found, so the card says that nothing is measured")
        retention, picture = None, None
    else:
        retention = read_retention(content)
        picture = plot(content) if plot else None
        notes.append(f"the card has the figures of {where}")
        files[REPORT] = SharedFile(REPORT, content=shared_report(content).encode())
    facts = read_facts(folder, name, options, retention, origin)
    files[CARD] = SharedFile(CARD, content=make_card(facts, picture is not None).encode())
    if picture is not None:
        files[PLOT] = SharedFile(PLOT, content=picture)
    left_out = {key: why for key, why in selection.left_out.items() if key not in files}
    return Parcel([files[key] for key in sorted(files)], left_out, notes)


def text_of(file: SharedFile) -> str:
    """The text of a file that goes up."""
    return file.read().decode("utf-8", "replace")


def with_bases(config: SharedFile, options: CardOptions) -> tuple[SharedFile, list[str]]:
    """config.json with the user's names of the parts that a checkpoint of learners lacks.

    Returns:
        The file, and a sentence for each such part that stays without a name.
    """
    fields = json.loads(text_of(config))
    stated = {"text": options.base_model, "vision": options.tower}
    notes = []
    for part in lacks(fields):
        if name := stated.get(part):
            fields[BASE_KEY][part] = {**fields[BASE_KEY][part], "name": name}
            config = SharedFile(CONFIG, content=(json.dumps(fields, indent=2) + "\n").encode())
        elif part not in named_bases(fields):
            option = {"text": "--base-model", "vision": "--tower"}.get(part, part)
            notes.append(
                f"the weights of '{part}' are in a folder of this machine and stay, so whoever"
                f" loads the learners has to give them as {part}=; {option} names them on the Hub"
            )
    return config, notes


def _report_of(folder: Path, report: Path | None) -> tuple[Mapping[str, Any] | None, Path | None]:
    where = report or find_report(folder)
    if where is None:
        return None, None
    content = read_report(where)
    if report is not None:
        validate_report(content, folder, report)
    return content, where


def is_replaceable(card: str) -> bool:
    """True for a card that nobody wrote: filled in by this package, a placeholder, or empty."""
    return not card.strip() or is_filled_in(card) or is_placeholder(card)


def for_repository(parcel: Parcel, state: RemoteState | None, new_card: bool) -> Parcel:
    """The parcel for a repository: a card that somebody wrote there stays."""
    if state is None or state.card is None or new_card or is_replaceable(state.card):
        return parcel
    if state.card.strip() == parcel.card.strip():
        return parcel
    return parcel.without_card("README.md in the repository was written by hand and stays")
