"""Everything that a model card shows, collected from a checkpoint's own files."""

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .base_models import UNKNOWN, BaseModel, find_base_model
from .local_paths import BASE_KEY, is_local
from .merge_facts import Merge, read_merge
from .retention import Retention
from .stages import Stage, read_stages

LIBRARY = "wings-lorra"
# `model_type` of a Wings model.
WINGS = "wings"
# Files of a processor; older ones have only the second.
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# Beginnings of tensors' names -> the part; other tensors are the language model's.
PARTS = (("model.vision_tower.", "vision tower"), ("model.projector.", "projector"))


@dataclass(frozen=True)
class CardOptions:
    """Statements of a user about a model, in place of what would be found.

    Attributes:
        licence: of the whole, as the Hub names it.
        base_model: Hub id of the language model.
        tower: Hub id of the vision tower.
        tags: further tags of the card.
    """

    licence: str | None = None
    base_model: str | None = None
    tower: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardFacts:
    """Facts of a checkpoint; what no file tells is None or empty.

    Attributes:
        name: of the repository, or of the folder.
        config: config.json.
        parts: language model and vision tower; of a merged model of transformers the LLM and the
            models that were merged with it.
        parameters: number of weights by part.
        stages: of training, the first one first.
        retention: figures of a report.
        licence: of the whole, for the Hub.
        licence_reason: where that is from.
        loads_with_code: config.json names code for `trust_remote_code=True`.
        is_self_contained: the code is in the folder and needs no installed package.
        tags: further tags of the card.
        merge: that made it; None for a model that was trained.
        reads_images: False for a language model.
    """

    name: str
    config: Mapping[str, Any]
    parts: Sequence[BaseModel]
    parameters: Mapping[str, int]
    stages: Sequence[Stage]
    retention: Retention | None
    licence: str
    licence_reason: str
    loads_with_code: bool
    is_self_contained: bool
    tags: tuple[str, ...] = ()
    merge: Merge | None = None
    reads_images: bool = True

    @property
    def is_wings(self) -> bool:
        """False for a model of transformers."""
        return model_type(self.config) == WINGS

    @property
    def library(self) -> str:
        """`library_name` of the card.

        A folder that names code loads with transformers alone, and the Hub shows how. Without it
        only this package knows a Wings model.
        """
        return "transformers" if self.loads_with_code or not self.is_wings else LIBRARY

    @property
    def total(self) -> int:
        """Number of all weights."""
        return sum(self.parameters.values())


def read_facts(
    folder: Path,
    name: str,
    options: CardOptions,
    retention: Retention | None = None,
    origin: Path | None = None,
) -> CardFacts:
    """Collects the facts of a checkpoint.

    Args:
        folder: of the checkpoint.
        name: of the repository.
        options: what the user states.
        retention: figures of a report.
        origin: folder of the run that made it, if that is another one.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stages = read_stages(origin or folder)
    merge = read_merge(folder)
    if model_type(config) == WINGS or merge is None:
        parts = base_models(origin or folder, config, stages, options)
    else:
        parts = merged_models(folder, merge, options)
    licence, reason = licence_of(parts, options)
    has_code = bool(config.get("auto_map"))
    return CardFacts(
        name,
        config,
        parts,
        count_parameters(folder),
        stages,
        retention,
        licence,
        reason,
        has_code,
        has_code and len(list(folder.glob("*.py"))) > 1,
        options.tags,
        merge,
        model_type(config) == WINGS or any((folder / name).is_file() for name in PROCESSORS),
    )


def merged_models(folder: Path, merge: Merge, options: CardOptions) -> list[BaseModel]:
    """The LLM and the models that were merged with it, as merged.json names them."""
    near = [folder.resolve().parent]
    base = options.base_model or merge.base
    return [
        find_base_model("language model", base, near, bool(options.base_model)),
        *(find_base_model("merged model", child, near) for child in merge.children),
    ]


def model_type(config: Mapping[str, Any]) -> str:
    """`model_type` of a config.json; that of a Wings model where it has none."""
    return str(config.get("model_type") or WINGS)


def base_models(
    folder: Path, config: Mapping[str, Any], stages: Sequence[Stage], options: CardOptions
) -> list[BaseModel]:
    """The language model and the tower, as far as the first recipe or config.json names them."""
    recipe = (stages[0].recipe.get("model") if stages else None) or {}
    base = named_bases(config)
    text = options.base_model or _named(recipe.get("text")) or base.get("text")
    text = text or _named((config.get("text_config") or {}).get("_name_or_path"))
    tower = options.tower or _named(recipe.get("vision")) or base.get("vision")
    tower = tower or _named(config.get("vision_config"))
    near = [folder, folder.resolve().parent]
    return [
        find_base_model("language model", text, near, bool(options.base_model)),
        find_base_model("vision tower", tower, near, bool(options.tower)),
    ]


def named_bases(config: Mapping[str, Any]) -> dict[str, str]:
    """Names of the language model ("text") and the tower ("vision"), as config.json has them."""
    base = config.get(BASE_KEY)
    parts = base.items() if isinstance(base, dict) else ()
    found = {part: _named(one.get("name")) for part, one in parts if isinstance(one, dict)}
    return {part: name for part, name in found.items() if name}


def lacks(config: Mapping[str, Any]) -> list[str]:
    """The parts whose weights a checkpoint of learners lacks: "text", and maybe "vision"."""
    base = config.get(BASE_KEY)
    parts = base.items() if isinstance(base, dict) else ()
    return [part for part, one in parts if isinstance(one, dict) and one.get("fingerprint")]


def _named(source: Any) -> str | None:
    """The name in a recipe's or configuration's description of a part."""
    if isinstance(source, Mapping):
        source = source.get("model_name")
    return source if isinstance(source, str) and source else None


def licence_of(parts: Sequence[BaseModel], options: CardOptions) -> tuple[str, str]:
    """The licence of the whole, and the reason in words.

    It holds the weights of all parts, so it is known only where all state the same.
    """
    if options.licence:
        return options.licence, "as its author states"
    stated = {part.licence for part in parts}
    if len(stated) == 1 and UNKNOWN not in stated:
        return stated.pop(), "the licence of all parts"
    if UNKNOWN in stated:
        return UNKNOWN, "fill in: the licence of a part is not known"
    return UNKNOWN, "fill in: the parts have different licences"


def count_parameters(folder: Path) -> dict[str, int]:
    """Number of weights by part, from the headers of the safetensors files."""
    counts: Counter[str] = Counter()
    names = [path for path in sorted(folder.glob("*.safetensors"))]
    if (folder / "model.safetensors").is_file():
        names = [folder / "model.safetensors"]
    for path in names:
        for name, shape in read_shapes(path).items():
            counts[part_of(name)] += prod(shape)
    return dict(counts)


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file by name, from its header.

    Raises:
        WingsError: no safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return {name: one["shape"] for name, one in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, OverflowError) as error:
        raise WingsError(f"{path} is no safetensors file: write the model again.") from error


def part_of(name: str) -> str:
    """The part that a tensor belongs to, by its name."""
    if ".wings." in name:
        return "learners and routers"
    for beginning, part in PARTS:
        if name.startswith(beginning):
            return part
    if of_sense := re.match(r"model\.([a-z0-9]+)_(encoder|projector)\.", name):
        return f"{of_sense[1]} encoder" if of_sense[2] == "encoder" else "projector"
    return "language model"


def hub_data(stages: Sequence[Stage]) -> list[str]:
    """Ids of the data sets on the Hub that the stages read."""
    found = []
    for stage in stages:
        for source in stage.recipe.get("data") or []:
            path = str(source.get("path")) if isinstance(source, dict) else ""
            if path.count("/") == 1 and not is_local(path) and "." not in path.split("/")[1]:
                found.append(path)
    return list(dict.fromkeys(found))
