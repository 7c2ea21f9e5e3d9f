"""The folder of a run: who it belongs to, what is whole in it, and how a checkpoint gets there."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from wings.errors import WingsError
from wings.train.recipe import Recipe

RECIPE, RESULT = "recipe.yaml", "result.json"
# What begins so is not whole: it is being written or removed.
UNFINISHED = "writing-"
# Without it a folder is no model to anyone.
_LAST = "config.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


class RunFolder:
    """`output` of a recipe: `recipe.yaml`, `checkpoint-N/`, at the end the model and `result.json`.

    Checkpoints are written under another name and renamed when they are whole, so every
    `checkpoint-N` can be resumed from, whenever the run was killed. The model too is written aside
    and moved, its `config.json` last: a folder that has one holds a whole model. `result.json` is
    the last file of all: a folder that has it is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and its model lies in the folder."""
        return (self.path / RESULT).is_file()

    def check(self, recipe: Recipe) -> None:
        """See that the folder is free or holds the same run.

        Raises:
            WingsError: the folder holds another run (its first difference is named) or a model.
        """
        if self.path.exists() and not self.path.is_dir():
            raise WingsError(f"output: {self.path} is a file; name a folder.")
        saved = self.path / RECIPE
        if saved.is_file():
            difference = recipe.difference(Recipe.from_yaml(saved))
            if difference:
                raise WingsError(
                    f"output: {self.path} holds another run, with {difference};"
                    " choose another output or remove that folder."
                )
        elif (self.path / "config.json").exists() or self.checkpoints():
            raise WingsError(
                f"output: {self.path} holds a model that no recipe made; choose another output."
            )

    def make(self) -> None:
        """Make the folder; that it cannot be made should be known before a model is loaded."""
        with self.writing("the folder"):
            self.path.mkdir(parents=True, exist_ok=True)

    def claim(self, recipe: Recipe) -> None:
        """Write the resolved recipe and clear away what a killed run left half-written."""
        with self.writing(RECIPE):
            self.clear()
            if not (self.path / RECIPE).is_file():
                self.write(RECIPE, recipe.to_yaml())

    def unfinished(self, name: str) -> Path:
        """Where something is written until it is whole."""
        return self.path / f"{UNFINISHED}{name}"

    def clear(self) -> None:
        """Remove what is half-written or half-removed."""
        for leftover in self.path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        for draft in self.path.glob(".*.draft"):
            draft.unlink()

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Say in a sentence what could not be written and what is safe; half of it is removed.

        Raises:
            WingsError: the disk is full, say. torch and safetensors have errors of their own for
                that.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                self.clear()
            cause = " ".join(str(error).split())[:200]
            raise WingsError(
                f"output: {what} could not be written to {self.path} ({cause};{self._room()});"
                f" {self.saved}; make room there, and the same command goes on."
            ) from error

    @property
    def saved(self) -> str:
        """What would be left if the run ended now, for a sentence."""
        last = self.last_checkpoint()
        return f"the last whole checkpoint is {last}" if last else "no checkpoint was saved"

    def write(self, name: str, text: str) -> None:
        """Write a small file so that it is there whole or not at all."""
        draft = self.path / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        os.replace(draft, self.path / name)

    def place(self, draft: Path) -> None:
        """Move the files of a model that lies whole in `draft` to the folder, then remove it."""
        sync(draft)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == _LAST):
            target = self.path / file.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(file, target)
        draft.rmdir()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [p for p in self.path.glob("checkpoint-*") if _CHECKPOINT.match(p.name)]
        return sorted(found, key=step_of)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies when it is whole."""
        return self.path / f"checkpoint-{step}"

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def forget_old(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            # Renamed first: a removal that is cut short must not leave half a checkpoint behind.
            doomed = self.unfinished(path.name)
            path.rename(doomed)
            shutil.rmtree(doomed)

    def read_result(self) -> dict:
        """What the finished run wrote."""
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def _room(self) -> str:
        with contextlib.suppress(OSError):
            return f" {shutil.disk_usage(self.path).free / 1e9:.2f} GB are free there"
        return " the folder is gone"


def sync(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on the disk.

    A machine that loses power must not keep a name without its content, and a disk over a network
    may say only now that it is full.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])
