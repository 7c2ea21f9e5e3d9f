"""`wings parts`: folders of a language model and a vision tower, without a network."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from wings.errors import WingsError
from wings.extras import require
from wings.output_folder import OutputFolder, make_readable, sync

LLM, TOWER = "llm", "tower"
ASSETS = Path(__file__).parent / "quickstart" / "assets"


def parts(folder: Path, tiny: bool = False) -> None:
    """Makes `llm` and `tower` in a folder where they are missing; prints lines for a recipe.

    Args:
        folder: a new one, or one that the same command has begun.
        tiny: copy the parts of the quickstart, with which every command takes seconds.

    Raises:
        WingsError: a package is missing (what to install), or the folder has other content.
    """
    owned = OutputFolder(folder, f"wings parts{' --tiny' * tiny}", "FOLDER")
    with owned.locked():
        owned.clear()
        owned.record(LLM, TOWER)
        for name, write in _writers(tiny).items():
            path = owned.path / name
            if path.is_dir():
                print(f"{path}: already there", flush=True)
                continue
            draft = owned.draft(name)
            write(draft)
            make_readable(draft.rglob("*"))
            sync(draft)
            # Renamed when whole, so that a folder of this name is never half a model.
            os.replace(draft, path)
            print(f"{path}: written", flush=True)
        print(_lines(owned.path))


def _writers(tiny: bool) -> dict[str, Callable[[Path], object]]:
    if tiny:
        return {name: _copy(ASSETS / name) for name in (LLM, TOWER)}
    require("real")
    # Optional packages, and torch.
    from .weights import write_language_model, write_vision_tower

    return {LLM: write_language_model, TOWER: write_vision_tower}


def _copy(source: Path) -> Callable[[Path], object]:
    return lambda target: shutil.copytree(source, target, dirs_exist_ok=True)


def _lines(folder: Path) -> str:
    """Sizes of the parts, and the lines of a recipe of stage align that names them."""
    try:
        llm = json.loads((folder / LLM / "config.json").read_text(encoding="utf-8"))
        tower = json.loads((folder / TOWER / "open_clip_config.json").read_text(encoding="utf-8"))
        blocks, width = llm["num_hidden_layers"], llm["hidden_size"]
        pixels = tower["model_cfg"]["vision_cfg"]["image_size"]
    except (OSError, ValueError, KeyError) as error:
        raise WingsError(
            f"{folder}: its parts cannot be read ({error}); delete the folder and run the command"
            " again."
        ) from error
    third = ", ".join(map(str, range(0, blocks, 3)))
    return (
        f"A language model of {blocks} blocks of width {width}, and a tower for images of"
        f" {pixels} pixels.\nIn a recipe next to {folder.name}:\n\n"
        f"model:\n  text: {folder.name}/{LLM}\n"
        f"  vision: {{model_name: local-dir:{folder.name}/{TOWER}, pool: 2}}\n"
        f"wings:\n  learner_layers: [{third}]    # every third block"
    )
