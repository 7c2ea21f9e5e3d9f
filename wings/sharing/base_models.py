"""The language model and the vision tower that a checkpoint was built from, and their licences."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .local_paths import HUB_CACHE, is_local, last_name

UNKNOWN = "unknown"
SECONDS = 10.0  # for an answer of the Hub
# Words of a licence's text -> its name on the Hub; all words of a line must be there.
TEXTS = (
    ("apache-2.0", ("Apache License", "Version 2.0")),
    ("mit", ("Permission is hereby granted, free of charge", "without limitation the rights")),
    ("bsd-3-clause", ("Redistribution and use in source and binary forms", "Neither the name")),
    ("bsd-2-clause", ("Redistribution and use in source and binary forms", "this list of")),
    ("gpl-3.0", ("GNU GENERAL PUBLIC LICENSE", "Version 3")),
    ("cc-by-4.0", ("Creative Commons Attribution 4.0",)),
)
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


@dataclass(frozen=True)
class BaseModel:
    """A part that was not trained here from nothing.

    Attributes:
        role: "language model" or "vision tower".
        name: as shown; None if nothing records it.
        hub_id: where it is on the Hub; None for a folder or an unknown one.
        licence: the Hub's name for it, or `UNKNOWN`.
        origin: where the licence was read, as a phrase.
    """

    role: str
    name: str | None
    hub_id: str | None
    licence: str
    origin: str


def find_base_model(
    role: str, source: str | None, near: Sequence[Path], is_stated: bool = False
) -> BaseModel:
    """Describes a part by what a configuration or a recipe names.

    Args:
        role: of the part.
        source: folder or Hub id, also as `local-dir:FOLDER`, `hf-hub:ID` or open_clip's
            `MODEL/TAG`; None if nothing names it.
        near: folders that a relative path may begin at.
        is_stated: the user names it, so it is on the Hub, even if this token does not see it.
    """
    if not source:
        return BaseModel(role, None, None, UNKNOWN, "the checkpoint does not record it")
    plain = re.sub(r"^(?:local-dir|hf-hub):", "", source)
    folder = existing_folder(plain, near)
    hub_id = hub_id_of(source, folder)
    licence, origin = UNKNOWN, "no card and no licence file tells it"
    if folder is not None:
        licence, origin = licence_of_folder(folder)
    if licence == UNKNOWN and hub_id:
        is_there, licence, origin = licence_on_hub(hub_id)
        if not is_there and not is_stated:
            hub_id = None
    return BaseModel(role, hub_id or last_name(plain), hub_id, licence, origin)


def existing_folder(source: str, near: Sequence[Path]) -> Path | None:
    """The folder of a source, if it is one of this machine."""
    path = Path(os.path.expanduser(source))
    candidates = [path] if path.is_absolute() else [path, *(start / path for start in near)]
    return next((one for one in candidates if one.is_dir()), None)


def hub_id_of(source: str, folder: Path | None) -> str | None:
    """The id on the Hub that a source names; None for a folder of one's own."""
    if found := HUB_CACHE.search(source):
        return f"{found[1]}/{found[2]}"
    if folder is not None or is_local(source) or source.startswith("local-dir:"):
        return None
    plain = source.removeprefix("hf-hub:")
    if plain == source and (of_tag := open_clip_id(plain)):
        return of_tag
    try:
        validate_repo_id(plain)
    except HFValidationError:
        return None
    return plain if "/" in plain else None


def open_clip_id(source: str) -> str | None:
    """The Hub id of open_clip's weights `MODEL/TAG`; None for another source."""
    model, _, tag = source.rpartition("/")
    if not model or "-" not in model:
        return None
    import open_clip

    weights: Mapping[str, Any] = open_clip.get_pretrained_cfg(model.replace("/", "-"), tag) or {}
    return str(weights.get("hf_hub") or "").rstrip("/") or None


def licence_of_folder(folder: Path) -> tuple[str, str]:
    """The licence that a model's folder states, and where: its card, else its licence file."""
    name = folder.name
    card = folder / "README.md"
    if card.is_file():
        stated = card_licence(card.read_text(encoding="utf-8", errors="replace"))
        if stated:
            return stated, f"the card in the folder {name}"
    for file in LICENCE_FILES:
        if (folder / file).is_file():
            text = " ".join((folder / file).read_text("utf-8", "replace").split())
            for licence, words in TEXTS:
                if all(word in text for word in words):
                    return licence, f"{file} in the folder {name}"
            return UNKNOWN, f"{file} in the folder {name} is of no known kind"
    return UNKNOWN, f"the folder {name} has no card and no licence file"


def licence_on_hub(hub_id: str) -> tuple[bool, str, str]:
    """Asks the Hub once for the licence that a model's card states.

    Returns:
        False if the Hub knows no such model; the licence, or `UNKNOWN`; where it was read.
    """
    try:
        card = HfApi().model_info(hub_id, timeout=SECONDS).card_data
    except RepositoryNotFoundError:
        return False, UNKNOWN, f"the Hub shows no {hub_id}"
    except Exception:
        # No network, or no answer in time: neither keeps a card from being written.
        return True, UNKNOWN, f"the card of {hub_id} on the Hub could not be read"
    stated = stated_licence(card.to_dict() if card else {})
    if stated is None:
        return True, UNKNOWN, f"the card of {hub_id} states none"
    return True, stated, f"the card of {hub_id}"


def card_licence(text: str) -> str | None:
    """The licence in the metadata of a card; the name of one that is the model's own."""
    found = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        fields = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    return stated_licence(fields) if isinstance(fields, dict) else None


def stated_licence(fields: Mapping[str, Any]) -> str | None:
    """The licence in a card's metadata; None if it states none."""
    licence = fields.get("license")
    if licence == "other":
        licence = fields.get("license_name") or licence
    if isinstance(licence, list):
        licence = licence[0] if licence else None
    return str(licence) if licence else None
