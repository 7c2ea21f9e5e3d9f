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
from wings.output_folder import INNER, OutputFolder, make_readable, sync
from wings.train.recipe import CONTINUABLE, Recipe

from .data.identity import Identity
from .manifest import FILE, Manifest, lacking

MAKER = "wings train"
RECIPE, RESULT, ANSWERS = "recipe.yaml", "result.json", "answers.jsonl"
# Manifest of the finished model, in the folder's inner folder.
MODEL = "model.json"
# Identities of the data, there too.
DATA = "data.json"
# Moved last: without it a folder is not loadable as a model.
_LAST = "config.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")
# Beginnings of the names that each checkpoint has; `Trainer` would begin afresh without them.
_NEEDED = (
    "optimizer", "scheduler.pt", "rng_state", "trainer_state.json", "resume_state.json",
)  # fmt: skip


class RunFolder:
    """`output` of a recipe: `recipe.yaml`, `checkpoint-N/`, at the end the model and `result.json`.

    Checkpoints are written in `.wings/drafts` and renamed, with a manifest of their files that is
    written last. So every `checkpoint-N` is complete, whenever the run was killed, and later damage
    is noticed. The model is also written to a draft and moved, its `config.json` last.
    `result.json` is the last file: a folder that has it and its whole model is finished.

    Attributes:
        path: the folder.
        owned: the same folder, with the names that the run recorded.
        is_held: True if this process holds its lock.
    """

    def __init__(self, path: str | Path) -> None:
        self.owned = OutputFolder(path, MAKER, "output")
        self.path = self.owned.path
        self.is_held = False
        self._was_there = True
        self._lock = contextlib.ExitStack()

    @property
    def finished(self) -> bool:
        """True if the run is complete and its model is in the folder."""
        return self.has_result and self.model_problem() is None

    @property
    def has_result(self) -> bool:
        """True if the run came to its end, whatever happened to its files later."""
        return (self.path / RESULT).is_file()

    @property
    def has_work(self) -> bool:
        """True if a run left a checkpoint or a model here, which another run must not replace."""
        has_model = _LAST in self.owned.names and (self.path / _LAST).is_file()
        return self.has_result or has_model or bool(self.recorded_checkpoints())

    def is_of(self, recipe: Recipe) -> bool:
        """True if the folder has the recipe of this run, with the same length and result."""
        with contextlib.suppress(WingsError):
            return not recipe.difference(Recipe.from_yaml(self.path / RECIPE))
        return False

    def saved_recipe(self) -> Recipe | None:
        """The recipe of the run whose work is in the folder; None without work."""
        saved = self.path / RECIPE
        return Recipe.from_yaml(saved) if self.has_work and saved.is_file() else None

    def validate(self, recipe: Recipe) -> None:
        """Validate that the folder is free or contains the same run, maybe of another length.

        A run that left neither checkpoint nor model does not count.

        Raises:
            WingsError: the folder contains another run (names the differences), or anything else.
        """
        self.owned.validate()
        saved = self.saved_recipe()
        if saved is not None:
            difference = recipe.difference(saved, CONTINUABLE)
            if difference:
                raise WingsError(
                    f"output: {self.path} contains another run, with {difference};"
                    " choose another output or delete that folder."
                )
        elif self.recorded_checkpoints():
            raise WingsError(
                f"output: {self.path} contains checkpoints without their {RECIPE}; restore it, or"
                " choose another output."
            )

    def lock(self) -> None:
        """Create the folder and keep other processes out until `close`.

        Called before a model is loaded, so that a failure shows early.

        Raises:
            WingsError: another run holds the folder, or it cannot be written.
        """
        self._was_there = self.path.exists()
        try:
            self._lock.enter_context(self.owned.locked())
        except OSError as error:
            raise self._unwritable("the folder", error) from error
        self.is_held = True

    def close(self) -> None:
        """Let other processes use the folder again; one with no file is not claimed."""
        is_there = self.is_held and self.owned.is_claimed
        if is_there and {entry.name for entry in self.path.iterdir()} == {INNER}:
            self.owned.remove(with_folder=not self._was_there)
        self._lock.close()
        self.is_held = False

    def claim(self, recipe: Recipe, data: dict[str, Identity]) -> None:
        """Write the resolved recipe and remove unfinished files of an earlier run.

        Args:
            recipe: recipe of the run.
            data: identities of its data.
        """
        with self.writing(RECIPE):
            self.owned.clear()
            if self.has_result:
                # Its model is not whole any more, or the run goes on; it ends anew.
                self.owned.discard(RESULT)
            elif not self.has_work and not self.is_of(recipe):
                self._discard_files()
            if not self.is_of(recipe):
                self.write(RECIPE, recipe.to_yaml(self.path))
            self.owned.write_inner(DATA, json.dumps(data))

    @property
    def data_record(self) -> Path:
        """File with the identities of the data that the run began with."""
        return self.path / INNER / DATA

    def unfinished(self, name: str) -> Path:
        """Temporary folder for an unfinished item."""
        return self.owned.drafts / name

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
                self.owned.clear()
            raise self._unwritable(what, error) from error

    @property
    def saved(self) -> str:
        """State of the checkpoints as a phrase for messages."""
        last = self.last_checkpoint()
        return f"the last whole checkpoint is {last}" if last else "no checkpoint was saved"

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        self.owned.write(name, text)

    def place_model(self, draft: Path, manifest: Manifest) -> None:
        """Move the files of a complete model in `draft` to the folder, then remove `draft`."""
        make_readable(draft.iterdir())
        self.owned.write_inner(MODEL, manifest.to_json())
        self.owned.place(draft, _LAST)

    def model_problem(self, with_content: bool = False) -> str | None:
        """A phrase on a file of the finished model that is missing or damaged, or None.

        Args:
            with_content: also read the weights and compare their digests.
        """
        try:
            manifest = Manifest.read(self.path / INNER / MODEL)
            self.read_result()
        except (OSError, ValueError):
            return f"the record of its model or its {RESULT} is missing or damaged"
        missing = [name for name in manifest.bytes if not (self.path / name).is_file()]
        if missing:
            return f"{missing[0]} is missing"
        # Other files may be edited by hand.
        return manifest.changed_weights(self.path, with_content)

    def place_checkpoint(self, draft: Path, step: int, manifest: Manifest) -> None:
        """Give a complete checkpoint its manifest and its name."""
        make_readable(draft.rglob("*"))
        (draft / FILE).write_text(manifest.to_json(), encoding="utf-8")
        sync(draft / FILE)
        whole = self.checkpoint(step)
        self.owned.record(whole.name)
        if whole.exists():
            self.owned.discard(whole.name)
            self.owned.record(whole.name)
        os.replace(draft, whole)
        sync_entries(self.path)

    def recorded_checkpoints(self) -> list[Path]:
        """Checkpoints that this run wrote and that are still there, whole or not, oldest first."""
        names = [name for name in self.owned.names if _CHECKPOINT.match(name)]
        return sorted((p for n in names if (p := self.path / n).exists()), key=step_of)

    def problem(self, checkpoint: Path, content_of: tuple[int, int] | None = None) -> str | None:
        """A phrase on why a checkpoint is not whole, or None.

        Args:
            checkpoint: its folder.
            content_of: also compare the content of files, the share of process `rank` of `ranks`.
        """
        try:
            manifest = Manifest.read(checkpoint / FILE)
        except (OSError, ValueError):
            return f"{FILE} is missing or damaged"
        problem = lacking(manifest.bytes, _NEEDED) or manifest.difference(checkpoint)
        if problem or content_of is None:
            return problem
        return manifest.changed(checkpoint, *content_of)

    def set_aside(self, checkpoint: Path) -> Path:
        """Rename a checkpoint that is not whole, so that no later one is taken for older."""
        aside = self.path / f"damaged-{checkpoint.name}"
        self.owned.record(aside.name)
        if aside.exists():
            self.owned.discard(aside.name)
            self.owned.record(aside.name)
        os.replace(checkpoint, aside)
        self.owned.forget(checkpoint.name)
        return aside

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints by names and sizes of their files, oldest first."""
        return [path for path in self.recorded_checkpoints() if self.problem(path) is None]

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.path / f"checkpoint-{step}"

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def remove_old_checkpoints(self, keep: int, best: int | None = None) -> None:
        """Remove all but the newest `keep` checkpoints and that of the step `best`."""
        for path in self.checkpoints()[:-keep]:
            if step_of(path) != best:
                self.owned.discard(path.name)

    def read_result(self) -> dict:
        """Content of `result.json`.

        Raises:
            OSError, ValueError: missing, or damaged.
        """
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def _discard_files(self) -> None:
        """Remove the files of another run that came to no checkpoint, half a model for example."""
        for name in self.owned.names:
            if not (self.path / name).is_dir():
                self.owned.discard(name)

    def _unwritable(self, what: str, error: Exception) -> WingsError:
        cause = " ".join(str(error).split())[:200]
        return WingsError(
            f"output: {what} could not be written to {self.path} ({cause};{self._room()});"
            f" {self.saved}; free disk space, then resume with the same command."
        )

    def _room(self) -> str:
        with contextlib.suppress(OSError):
            return f" {shutil.disk_usage(self.path).free / 1e9:.2f} GB are free there"
        return " the folder is gone"


def sync_entries(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def step_of(checkpoint: Path) -> int:
    """Optimiser step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
