"""`wings push` and `wings card`: a checkpoint on the Hub, and its model card."""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub.utils import disable_progress_bars
from rich.markup import escape
from rich.table import Table

from wings.errors import WingsError
from wings.output_folder import reading_lock
from wings.sharing.card import PLOT, is_filled_in
from wings.sharing.card_facts import CardOptions
from wings.sharing.hub_errors import validate_token
from wings.sharing.parcel import Parcel, pack, validate_checkpoint
from wings.sharing.push import push as push_parcel
from wings.sharing.repository import Repository, validate_name
from wings.sharing.stages import validate_run

from .terminal import make_console


def push(
    folder: Path,
    name: str,
    public: bool,
    dry_run: bool,
    revision: str,
    message: str,
    include: list[str],
    card: Path | None,
    new_card: bool,
    report: Path | None,
    run: Path | None,
    license: str | None,
    base_model: str | None,
    tower: str | None,
) -> None:
    """Uploads a checkpoint, or lists what would go up.

    Args:
        folder: of the checkpoint; nothing in it is changed.
        name: `owner/name` on the Hub, or a name alone.
        public: let everybody see the repository.
        dry_run: list the files and ask nothing of the Hub but licences.
        revision: branch.
        message: title of the commit.
        include: patterns of further files.
        card: file to write the card to, to look at it.
        new_card: replace a card that somebody wrote.
        report: folder of `wings eval`.
        run: folder of the training run, if the checkpoint is a copy of its model.
        license: of the whole.
        base_model: Hub id of the language model.
        tower: Hub id of the vision tower.

    Raises:
        WingsError: a folder that cannot be shared.
        HubError: the Hub or the network refused something.
    """
    validate_name(name)
    validate_checkpoint(folder)
    if run is not None:
        validate_run(run)
    console = make_console()
    with reading_lock(folder):
        if not dry_run:
            validate_token()
            if not sys.stderr.isatty():
                disable_progress_bars()
            repository = Repository(name, revision)
            name = repository.name
        parcel = pack(
            folder, name, CardOptions(license, base_model, tower), include=include, report=report,
            origin=run, new_card=new_card, plot=draw,
        )  # fmt: skip
        if card is not None:
            write_card(card, parcel)
        show(console, parcel)
        if dry_run:
            total = sum(file.size for file in parcel.files)
            console.print(f"{len(parcel.files)} files, {total:,} bytes would go up to {name}.")
            return
        pushed = push_parcel(parcel, repository, public=public, message=message, new_card=new_card)
    for note in pushed.notes[len(parcel.notes) :]:
        console.print(f"{note}.")
    seen = "private" if pushed.is_private else "public"
    console.print(f"{pushed.address}: {pushed.name} is {seen}.", soft_wrap=True)


def card(
    folder: Path,
    name: str | None,
    output: Path | None,
    report: Path | None,
    run: Path | None,
    license: str | None,
    base_model: str | None,
    tower: str | None,
) -> None:
    """Prints the card of a checkpoint, or writes it.

    Args:
        folder: of the checkpoint.
        name: of the repository; None for the folder's name.
        output: file to write; its plot is written next to it.
        report: folder of `wings eval`.
        run: folder of the training run, if the checkpoint is a copy of its model.
        license: of the whole.
        base_model: Hub id of the language model.
        tower: Hub id of the vision tower.

    Raises:
        WingsError: a folder without a checkpoint, or a report of another one.
    """
    validate_checkpoint(folder)
    if run is not None:
        validate_run(run)
    parcel = pack(
        folder, name or folder.resolve().name, CardOptions(license, base_model, tower),
        report=report, origin=run, new_card=True, plot=draw,
    )  # fmt: skip
    if output is None:
        print(parcel.card, end="")
    else:
        write_card(output, parcel)


def draw(report: Mapping[str, Any]) -> bytes | None:
    """The plot of a report; None without the packages of evaluation."""
    if find_spec("matplotlib") is None:
        return None
    from wings.eval.compare.card_plot import card_plot

    return card_plot(report)


def write_card(path: Path, parcel: Parcel) -> None:
    """Writes the card, and its plot next to it.

    Raises:
        WingsError: a folder, or a file that this did not write.
    """
    if path.is_dir():
        raise WingsError(f"{path} is a folder; name a file for the card, such as card.md.")
    wanted = {path: parcel.card.encode()}
    wanted |= {path.parent / f.name: f.read() for f in parcel.files if f.name == PLOT}
    is_own = path.is_file() and is_filled_in(path.read_text(encoding="utf-8", errors="replace"))
    for target, content in wanted.items():
        if target.exists() and not is_own and target.read_bytes() != content:
            raise WingsError(
                f"{target} is in the way and was not written by this command; move it."
            )
    for target, content in wanted.items():
        draft = target.with_name(f".{target.name}.draft")
        try:
            draft.write_bytes(content)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)


def show(console: Any, parcel: Parcel) -> None:
    """Prints the files that go up with their sizes, and what stays with the reason."""
    table = Table(box=None, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for file in parcel.files:
        table.add_row(escape(file.name), f"{file.size:,}")
    console.print(table)
    for name, reason in parcel.left_out.items():
        console.print(f"  stays: {escape(name)} ({reason})", soft_wrap=True)
    for note in parcel.notes:
        console.print(f"{escape(note)}.", soft_wrap=True)
