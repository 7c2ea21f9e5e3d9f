"""The output folder of a run: its recipe, atomic checkpoints and the finished model."""

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
# Prefix of folders that are being written or removed.
UNFINISHED = "writing-"
# Moved last: without it a folder is not loadable as a model.
_LAST = "config.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


class RunFolder:
    """`output` of a recipe: `recipe.yaml`, `checkpoint-N/`, at the end the model and `result.json`.

    Checkpoints are written under a temporary name and renamed, so every `checkpoint-N` is complete,
    whenever the run was killed. The model is also written to a temporary folder and moved, its
    `config.json` last. `result.json` is the last file: a folder that has it is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @property
    def finished(self) -> bool:
        """True if the run is complete and its model is in the folder."""
        return (self.path / RESULT).is_file()

    def validate(self, recipe: Recipe) -> None:
        """Validate that the folder is free or contains the same run.

        Raises:
            WingsError: the folder contains another run (names the first difference) or a model.
        """
        if self.path.exists() and not self.path.is_dir():
            raise WingsError(f"output: {self.path} is a file; choose a folder.")
        saved = self.path / RECIPE
        if saved.is_file():
            difference = recipe.difference(Recipe.from_yaml(saved))
            if difference:
                raise WingsError(
                    f"output: {self.path} contains another run, with {difference};"
                    " choose another output or delete that folder."
                )
        elif (self.path / "config.json").exists() or self.checkpoints():
            raise WingsError(
                f"output: {self.path} contains a model without a recipe; choose another output."
            )

    def make(self) -> None:
        """Create the folder, before a model is loaded, so that a failure shows early."""
        with self.writing("the folder"):
            self.path.mkdir(parents=True, exist_ok=True)

    def claim(self, recipe: Recipe) -> None:
        """Write the resolved recipe and remove unfinished files of a killed run."""
        with self.writing(RECIPE):
            self.clear()
            if not (self.path / RECIPE).is_file():
                self.write(RECIPE, recipe.to_yaml())

    def unfinished(self, name: str) -> Path:
        """Temporary folder for an unfinished item."""
        return self.path / f"{UNFINISHED}{name}"

    def clear(self) -> None:
        """Remove everything half-written or half-removed."""
        for leftover in self.path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        for draft in self.path.glob(".*.draft"):
            draft.unlink()

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Wraps writes: removes unfinished files on failure.

        Raises:
            WingsError: names what failed and what is safe. torch and safetensors have their own
                errors for a full disk.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                self.clear()
            cause = " ".join(str(error).split())[:200]
            raise WingsError(
                f"output: {what} could not be written to {self.path} ({cause};{self._room()});"
                f" {self.saved}; free disk space, then resume with the same command."
            ) from error

    @property
    def saved(self) -> str:
        """State of the checkpoints as a phrase for messages."""
        last = self.last_checkpoint()
        return f"the last whole checkpoint is {last}" if last else "no checkpoint was saved"

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        draft = self.path / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        os.replace(draft, self.path / name)

    def place(self, draft: Path) -> None:
        """Move the files of a complete model in `draft` to the folder, then remove `draft`."""
        sync(draft)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == _LAST):
            target = self.path / file.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(file, target)
        draft.rmdir()

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        folders = [p for p in self.path.glob("checkpoint-*") if _CHECKPOINT.match(p.name)]
        return sorted(folders, key=step_of)

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.path / f"checkpoint-{step}"

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def remove_old_checkpoints(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            # Renamed first, so that an interrupted removal leaves no half checkpoint.
            doomed = self.unfinished(path.name)
            path.rename(doomed)
            shutil.rmtree(doomed)

    def read_result(self) -> dict:
        """Content of `result.json`."""
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def _room(self) -> str:
        with contextlib.suppress(OSError):
            return f" {shutil.disk_usage(self.path).free / 1e9:.2f} GB are free there"
        return " the folder is gone"


def sync(path: Path) -> None:
    """Flush a file, or all files of a folder, to disk.

    Otherwise a power loss could keep a name without its content, and a network disk may report only
    now that it is full.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def step_of(checkpoint: Path) -> int:
    """Optimiser step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
