"""The stages of training that led to a checkpoint, read from recipe.yaml and result.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wings.errors import WingsError

from .local_paths import is_local, last_name
from .shared_files import RECIPE, RESULT

MOST = 10  # stages that are followed back


@dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        recipe: its resolved recipe.
        result: what it wrote at its end; empty if that is not there.
    """

    recipe: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`align` or `instruct`."""
        return str(self.recipe.get("stage") or "unknown")

    @property
    def start(self) -> str | None:
        """Name of the checkpoint that it started from; None for parts without learners."""
        start = self.recipe.get("start")
        return shown_name(start) if start else None

    @property
    def data(self) -> list[str]:
        """Names of its data, without folders."""
        found = [source for source in self.recipe.get("data") or [] if isinstance(source, dict)]
        turns = self.recipe.get("text_turns")
        names = [shown_name(source.get("path")) for source in found]
        if isinstance(turns, dict):
            names.append(
                f"{shown_name(turns.get('path'))} (text turns, share {turns.get('share')})"
            )
        return names

    @property
    def rows(self) -> dict[str, str]:
        """Names and values for the card; a value that no file tells is `not recorded`."""
        recipe, result = self.recipe, self.result
        rates = recipe.get("learning_rates")
        rates = ", ".join(f"{k} {v}" for k, v in rates.items()) if isinstance(rates, dict) else None
        seconds = result.get("seconds")
        took = f"{seconds:,.0f} s" if isinstance(seconds, int | float) else None
        kept = {"True": "kept frozen", "False": "trained"}.get(str(recipe.get("freeze_llm")))
        losses = [one["loss"] for one in result.get("history") or [] if "loss" in one]
        rows = {
            "language model": kept,
            "data": ", ".join(self.data) or None,
            "learning rates": rates,
            "steps": result.get("steps"),
            "steps of the model": result.get("model_step"),
            "batch size": recipe.get("batch_size"),
            "seed": recipe.get("seed"),
            "last training loss": f"{losses[-1]:.4f}" if losses else None,
            "time": took,
            "releases": releases(result.get("versions")),
            "ended early": result.get("stopped"),
        }
        if rows["steps of the model"] in (None, rows["steps"]):
            del rows["steps of the model"]
        if rows["ended early"] is None:
            del rows["ended early"]
        return {k: "not recorded" if v is None else one_line(v) for k, v in rows.items()}


def releases(versions: Any) -> str | None:
    """`wings-lorra 0.1.0, commit 1a2b3c4d5e6f`; None if none are recorded."""
    if not isinstance(versions, dict) or not versions:
        return None
    commit = versions.get("commit", "not recorded")
    others = [f"{name} {version}" for name, version in versions.items() if name != "commit"]
    return ", ".join([*others, f"commit {commit}"])


def shown_name(path: Any) -> str:
    """A path by its last name, a name on the Hub in full."""
    text = str(path)
    return last_name(text) if is_local(text) or text.count("/") > 1 else text


def one_line(value: Any) -> str:
    """A value as text of one line."""
    return " ".join(str(value).split())


def read_stages(folder: Path) -> list[Stage]:
    """The stages that led to the checkpoint in a folder, the first one first.

    A stage names the folder that it started from; one that is not here any more ends the list.
    """
    stages: list[Stage] = []
    seen: set[Path] = set()
    here: Path | None = folder
    while here is not None and here.resolve() not in seen and len(stages) < MOST:
        seen.add(here.resolve())
        recipe = read_recipe(here / RECIPE)
        if recipe is None:
            break
        stages.insert(0, Stage(recipe, read_result(here / RESULT)))
        start = recipe.get("start")
        here = here / Path(start).expanduser() if isinstance(start, str) else None
    return stages


def validate_run(folder: Path) -> None:
    """Raises a `WingsError` for a folder without the recipe of a run."""
    if read_recipe(folder / RECIPE) is None:
        raise WingsError(f"--run {folder} has no {RECIPE} that can be read; name a run's folder.")


def read_recipe(path: Path) -> Mapping[str, Any] | None:
    """The values of a recipe; None without one that can be read."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return value if isinstance(value, dict) else None


def read_result(path: Path) -> Mapping[str, Any]:
    """The values of a result; empty without one that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
