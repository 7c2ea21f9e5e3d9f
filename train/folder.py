"""The folder of a run: who it belongs to, what is whole in it, and how a checkpoint gets there."""

import json
import os
import re
import shutil
from pathlib import Path

from wings.errors import WingsError
from wings.train.recipe import Recipe

RECIPE, RESULT = "recipe.yaml", "result.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


class RunFolder:
    """`output` of a recipe: `recipe.yaml`, `checkpoint-N/`, at the end the model and `result.json`.

    Checkpoints are written under another name and renamed when they are whole, so every
    `checkpoint-N` can be resumed from, whenever the run was killed. `result.json` is the last file
    written: a folder that has it is finished.
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

    def claim(self, recipe: Recipe) -> None:
        """Write the resolved recipe and clear away what a killed run left half-written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob("writing-*"):
            shutil.rmtree(leftover)
        if not (self.path / RECIPE).is_file():
            self.write(RECIPE, recipe.to_yaml())

    def write(self, name: str, text: str) -> None:
        """Write a small file so that it is there whole or not at all."""
        draft = self.path / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.path / name)

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [p for p in self.path.glob("checkpoint-*") if _CHECKPOINT.match(p.name)]
        return sorted(found, key=step_of)

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def forget_old(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            # Renamed first: a removal that is cut short must not leave half a checkpoint behind.
            doomed = path.with_name(f"writing-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)

    def read_result(self) -> dict:
        """What the finished run wrote."""
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])
