"""Stages: the parts of a model that each one has and trains, and the paper's learning rates."""

import re
from typing import Any

from wings.sense import FIELDS, IMAGE, TAKEN, TEXT

# The paper's rates for projector and language model. It gives none for learners and router, which
# take the projector's. Adapters take a usual LoRA rate. A prefix takes 100 times the projector's:
# its gates start at zero in this stage, and AdamW moves a gate by about one rate per step, so at
# 1e-5 a thousand steps would open it by 0.01 at most. Further senses have the rates of images.
RATES: dict[str, dict[str, float]] = {
    "align": {"projector": 1e-3, "image_learners": 1e-3, "lora": 1e-4},
    "instruct": {
        "projector": 1e-5,
        "image_learners": 1e-5,
        "text_learners": 1e-5,
        "router": 1e-5,
        "prefix": 1e-3,
        "language_model": 2e-6,
        "lora": 1e-4,
    },
}

# Parts of a model by stage, as in the paper; `wings` of a recipe overrides them.
PARTS: dict[str, dict[str, Any]] = {
    "align": {"learners": ["image"], "router": None},
    "instruct": {"learners": ["image", "text"], "router": "position"},
}

# Groups of a further sense, and those of images that have their rates.
_OF_SENSES = {
    "projector": "projector",
    "learners": "image_learners",
    "text_learners": "text_learners",
    "router": "router",
    "encoder": "vision_tower",
}
_GROUP = re.compile(f"([a-z][a-z0-9]*)_({'|'.join(_OF_SENSES)})")


def role_of(group: str) -> str:
    """The group of images that does for them what `group` does for its sense; or `group`."""
    match = _GROUP.fullmatch(group)
    return group if match is None or match[1] in TAKEN else _OF_SENSES[match[2]]


def sense_of(group: str) -> str | None:
    """The sense that a group of parameters belongs to; None for one that belongs to all."""
    match = _GROUP.fullmatch(group)
    if match is not None and match[1] not in TAKEN:
        return match[1]
    return IMAGE if group in {*_OF_SENSES.values()} else None


def is_trained(stage: str, group: str) -> bool:
    """True if a stage trains a group of parameters."""
    return role_of(group) in RATES[stage]


def groups_of(sense: str) -> list[str]:
    """The groups that stages may train in a model with images and a further sense."""
    of_sense = [
        f"{sense}_{part}" for part in _OF_SENSES if is_trained("instruct", f"{sense}_{part}")
    ]
    return [*RATES["instruct"], *of_sense]


def parts_of_sense(stage: str, name: str) -> dict[str, Any]:
    """The learners and the router of a sense in a stage, unless a recipe names others."""
    if name == IMAGE:
        return dict(PARTS[stage])
    if stage == "align":
        return {"learners": [name], "router": None}
    return {"learners": [name, TEXT], "router": FIELDS["router"]}
