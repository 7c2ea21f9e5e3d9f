"""Code and version that a saved folder brings along, so that Auto classes load it anywhere."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wings import __version__
from wings.errors import WingsError

# The newest format of saved folders; it grows where an older release would read a new folder
# wrongly. A folder has the oldest format that can hold it: 2 has senses beside images.
FORMAT, OF_IMAGES, OF_SENSES = 2, 1, 2
VERSION_KEY, FORMAT_KEY = "wings_version", "wings_format"
MODULE = "modeling_wings"
# The other files of a folder with a copy of this code, see `wings/model/flat_code.py`.
PART = "wings_{}.py"
# True in such a copy. Its classes are others than the package's, so what transformers finds by a
# name that is one for the process has a name of its own there.
IS_COPY = __name__ != "wings.saved_code"
SUFFIX = f"_{zlib.crc32(__name__.encode()):08x}" if IS_COPY else ""
MODEL_CLASSES = {
    "AutoConfig": "WingsConfig",
    "AutoModel": "WingsModel",
    "AutoModelForCausalLM": "WingsForCausalLM",
    "AutoModelForImageTextToText": "WingsForCausalLM",
    "AutoModelForMultimodalLM": "WingsForCausalLM",
}
PROCESSOR_CLASSES = {"AutoProcessor": "WingsProcessor"}
IMAGE_PROCESSOR_CLASSES = {"AutoImageProcessor": "WingsImageProcessor"}
JSON_CLASSES = {
    "config.json": {**MODEL_CLASSES, **PROCESSOR_CLASSES},
    "processor_config.json": PROCESSOR_CLASSES,
    "preprocessor_config.json": IMAGE_PROCESSOR_CLASSES,
}
# `trust_remote_code=True` runs it where the package was not imported before.
STUB = '''"""The classes of this checkpoint, which are in the package wings-lorra."""

try:
    from wings import WingsConfig, WingsForCausalLM, WingsProcessor
    from wings.model.backbone import WingsModel
    from wings.processing.image_processor import WingsImageProcessor
except ImportError as error:
    if (error.name or "").partition(".")[0] != "wings":
        raise
    raise ImportError(
        "This checkpoint needs the package wings-lorra: run pip install wings-lorra "
        "(the package that is named wings there is another project)."
    ) from error
'''


def auto_map(classes: Mapping[str, str]) -> dict[str, str]:
    """Makes the `auto_map` of a JSON file: the class of each Auto class, in the folder's module."""
    return {auto: f"{MODULE}.{name}" for auto, name in classes.items()}


def stamp(number: int = OF_IMAGES) -> dict[str, Any]:
    """Returns the entries that say which release wrote a folder, and its format."""
    return {VERSION_KEY: __version__, FORMAT_KEY: number}


def validate_format(fields: Mapping[str, Any]) -> None:
    """Raises a `WingsError` for the fields of a folder that only a newer release can read."""
    number = fields.get(FORMAT_KEY)
    if number is None:
        # Folders of releases before there was a number.
        return
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise WingsError(f"{FORMAT_KEY} is {number!r}, but must be a whole number above 0.")
    if number > FORMAT:
        raise WingsError(
            f"The folder has format {number} of wings-lorra {fields.get(VERSION_KEY)}, and this "
            f"is wings-lorra {__version__}, which reads formats up to {FORMAT}: run pip install "
            f"--upgrade wings-lorra."
        )


def add_to_folder(folder: str | os.PathLike, files: Mapping[str, str]) -> None:
    """Puts code into a saved folder and names its classes in the JSON files.

    All files are written under other names first, so that a full disk changes nothing.

    Args:
        folder: of a checkpoint, of any release.
        files: name -> text, with the module that `auto_map` names.
    """
    target = Path(folder)
    texts = dict(files)
    for name, classes in JSON_CLASSES.items():
        if (target / name).is_file():
            fields = json.loads((target / name).read_text(encoding="utf-8"))
            fields |= stamp(fields.get(FORMAT_KEY) or OF_IMAGES)
            fields["auto_map"] = {**fields.get("auto_map", {}), **auto_map(classes)}
            if isinstance(images := fields.get("image_processor"), dict):
                images["auto_map"] = auto_map(IMAGE_PROCESSOR_CLASSES)
            texts[name] = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    drafts = {target / f".{name}.draft": text for name, text in texts.items()}
    try:
        for draft, text in drafts.items():
            draft.write_text(text, encoding="utf-8")
        for draft, name in zip(drafts, texts, strict=True):
            # Not written through a link, which may lead to a file of others.
            os.replace(draft, target / name)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def write_code(folder: str | os.PathLike) -> None:
    """Writes the module that `auto_map` names; a copy of this code writes itself.

    A folder that does not exist is made. Nothing is written where a file has its name.
    """
    target = Path(folder)
    if target.is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    files = {f"{MODULE}.py": STUB}
    if IS_COPY:
        here = Path(__file__).parent
        own = [here / f"{MODULE}.py", *here.glob(PART.format("*"))]
        files = {path.name: path.read_text(encoding="utf-8") for path in own}
    for name, text in files.items():
        path = target / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
