"""Validates values of a recipe, key by key; `recipe.py` compares the keys with one another."""

import dataclasses
import re
from typing import Any

from transformers import PreTrainedConfig

from wings.config import IMAGE_FIELDS, WingsConfig, validate_field
from wings.errors import WingsError, nearest
from wings.records.record_source import Limits
from wings.sense import FIELDS, IMAGE, validate_values

from .recipe_parts import (
    AFTER_ITEMS,
    DataSource,
    Evaluate,
    KLToBase,
    Lora,
    TextTurns,
)

# The largest values: far more than anyone needs, and less than what breaks a later step. The
# smallest are above 0, or 0 for those in `_MAY_BE_ZERO`.
_LARGEST: dict[str, float] = {
    "max_length": 2**24, "epochs": 1e6, "batch_size": 2**20, "device_batch_size": 2**20,
    "max_grad_norm": 1e9, "weight_decay": 100.0, "workers": 512, "seed": 2**32 - 1,
    "steps": 1e9, "save_every": 1e9, "log_every": 1e9, "save_total_limit": 1e9,
    "loss_chunk": 1e9,
}  # fmt: skip
_MAY_BE_ZERO = (
    "weight_decay", "workers", "seed", "text_after_image", "answers", "loss_chunk",
)  # fmt: skip
_LARGEST_OF_SOURCES = {"weight": 1e6, "limit": 1e15, "shuffle_buffer": 1e8}
_LARGEST_OF_EVALUATE = {"every": 1e9, "text_after_image": 1e5, "answers": 1e3}
_LARGEST_OF_LIMITS = {
    "image_bytes": 2**40,
    "image_pixels": 2**34,
    "video_bytes": 2**42,
    "video_frames": 2**31,
    "video_pixels": 2**40,
    "url_seconds": 86_400.0,
    "record_bytes": 2**40,
}

# Fields of the configuration that model and processor set.
_DERIVED = {
    "text_config", "vision_config", "image_token_id", "image_seq_length", "tie_word_embeddings",
    "other_senses", "lora", "llm_trained",
}  # fmt: skip


def validate_numbers(values: dict[str, Any], limits: Limits) -> None:
    """Raise a `WingsError` for the first number out of range.

    Args:
        values: those of all keys of the recipe.
        limits: its `limits`.
    """
    _validate_ranges(values, _LARGEST)
    _validate_ranges(vars(limits), _LARGEST_OF_LIMITS, "limits.")
    warmup, small, whole = (values[n] for n in ("warmup_ratio", "device_batch_size", "batch_size"))
    if not 0 <= warmup < 1:
        raise WingsError(f"warmup_ratio: {warmup} is not a share of the steps, 0 to 1.")
    if small and whole % small:
        raise WingsError(f"device_batch_size: {small} does not divide batch_size {whole}.")


def _validate_ranges(values: dict[str, Any], largest: dict[str, float], where: str = "") -> None:
    for name, most in largest.items():
        value, key = values[name], f"{where}{name}"
        if value is None:
            continue
        if name not in _MAY_BE_ZERO:
            _validate_positive(key, value)
        elif value < 0:
            raise WingsError(f"{key}: {value} must not be negative.")
        if value > most:
            raise WingsError(f"{key}: {value} is too large; the most is {most:,.0f}.")


def _validate_positive(key: str, value: float, remedy: str = "") -> None:
    if not value > 0:
        raise WingsError(f"{key}: {value} must be larger than 0{remedy}.")


def validate_sources(sources: list[DataSource]) -> None:
    """Raise a `WingsError` for a bad entry of `data`, or shares that leave nothing."""
    if not sources:
        raise WingsError("data: is empty; list at least one file of records.")
    for n, source in enumerate(sources):
        _validate_ranges(vars(source), _LARGEST_OF_SOURCES, f"data.{n}.")
        if source.share is not None and not 0 < source.share < 1:
            raise WingsError(
                f"data.{n}.share: {source.share} is not between 0 and 1; 0.1 is a tenth of the"
                " samples of an epoch."
            )
        if source.share is not None and source.weight != 1:
            raise WingsError(f"data.{n}: weight and share are both given; remove one of them.")
        for key in ("stream", "subset"):
            if vars(source)[key] and source.split is None:
                raise WingsError(f"data.{n}.{key}: also needs split, such as split: train.")
    shares = [source.share for source in sources if source.share is not None]
    if shares and len(shares) == len(sources):
        raise WingsError(
            "data: every source has a share, so the length of an epoch is undefined; remove the"
            " share of one source."
        )
    if sum(shares) >= 1:
        raise WingsError(
            f"data: the shares add up to {sum(shares):g} and leave nothing for sources without"
            " a share; lower them."
        )


def validate_text_turns(turns: TextTurns | None) -> None:
    """Raise a `WingsError` for a bad share."""
    if turns is not None and not 0 < turns.share <= 1:
        raise WingsError(
            f"text_turns.share: {turns.share} is not a share above 0 and up to 1; 0.5 is half of"
            " the conversations with images; for none, remove the key text_turns."
        )


def wings_options() -> list[str]:
    """The fields of `WingsConfig` that a recipe may set, in their order."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)} | _DERIVED
    return [f.name for f in dataclasses.fields(WingsConfig) if f.name not in inherited]


def validate_wings(stage: str, wings: dict[str, Any]) -> None:
    """Raise a `WingsError` for an unknown or bad option, or one that the stage does not have."""
    known = wings_options()
    for name, value in wings.items():
        if name not in known:
            raise WingsError(f"wings.{name}: no such option{nearest(name, known)}.")
        validate_field(name, value, "wings.")
    for name, part in (("router", "router"), ("prefix_length", "prefix")):
        if stage == "align" and wings.get(name):
            raise WingsError(f"wings.{name}: stage align has no {part}; set it in stage instruct.")
    if stage == "align" and not set(wings.get("learners") or ()) <= {"image"}:
        raise WingsError("wings.learners: stage align allows [image], or [] for only a projector.")


# Fields of a further sense that a recipe may set; the model fills in the others.
SENSE_OPTIONS = [one for one in FIELDS if one not in ("encoder", "token_id", "seq_length")]
# Options of `wings` that are about images alone.
OF_IMAGES = {IMAGE_FIELDS.get(one, one) for one in FIELDS}


def validate_senses(stage: str, senses: dict[str, Any]) -> None:
    """Raise a `WingsError` for an unknown or bad option of a further sense, or of the stage."""
    for name, options in senses.items():
        where = f"senses.{name}"
        if not isinstance(options, dict):
            raise WingsError(f"{where}: {options!r} must map options to values.")
        if name == IMAGE:
            raise WingsError(f"{where}: options of images are in wings; move them there.")
        for option in options:
            if option not in SENSE_OPTIONS:
                near = nearest(str(option), SENSE_OPTIONS)
                raise WingsError(f"{where}.{option}: no such option{near}.")
        validate_values(name, options, f"{where}.", needs_encoder=False)
        if stage == "align" and options.get("router"):
            raise WingsError(
                f"{where}.router: stage align has no router; set it in stage instruct."
            )
        if stage == "align" and not {*(options.get("learners") or ())} <= {name}:
            raise WingsError(
                f"{where}.learners: stage align allows [{name}], or [] for only a projector."
            )


def validate_not_of_images(wings: dict[str, Any]) -> None:
    """Raise a `WingsError` if `wings` has an option of images, for a run without any."""
    if lost := sorted(OF_IMAGES & wings.keys()):
        raise WingsError(
            f"wings.{lost[0]}: is about images, which this run does not train; options of other"
            " senses are in senses."
        )


def validate_lora(lora: Lora | None) -> None:
    """Raise a `WingsError` for a bad value of the adapters."""
    if lora is None:
        return
    _validate_positive("lora.rank", lora.rank)
    _validate_positive("lora.alpha", lora.alpha)
    if not 0 <= lora.dropout < 1:
        raise WingsError(f"lora.dropout: {lora.dropout} is not a share, 0 to 1.")
    if lora.targets == []:
        raise WingsError("lora.targets: name at least one layer, or remove the key for all.")


def validate_kl_weight(kl_to_base: KLToBase | None) -> None:
    """Raise a `WingsError` for a bad weight."""
    if kl_to_base is not None:
        remedy = "; for no KL, remove the key kl_to_base"
        _validate_positive("kl_to_base.weight", kl_to_base.weight, remedy)


def validate_evaluate(evaluate: Evaluate) -> None:
    """Raise a `WingsError` for bad held-out data, or a stop that names none of them."""
    _validate_ranges(vars(evaluate), _LARGEST_OF_EVALUATE, "evaluate.")
    for n, source in enumerate(evaluate.data):
        place = f"evaluate.data.{n}"
        # The name becomes a part of metric names, which trackers read as a path.
        if not re.fullmatch(r"[\w.-]+", source.name):
            raise WingsError(
                f"{place}.name: {source.name!r} may only have letters, digits, '_', '-' and '.'."
            )
        if source.name in AFTER_ITEMS:
            raise WingsError(
                f"{place}.name: {source.name} is a set that is made of text records after items;"
                " choose another name."
            )
        if source.weight != 1.0:
            raise WingsError(f"{place}.weight: each held-out record counts once; use limit.")
        _validate_ranges(vars(source), _LARGEST_OF_SOURCES, f"{place}.")
    names = [source.name for source in evaluate.data]
    names += [*AFTER_ITEMS] if evaluate.text_after_image else []
    _validate_best(evaluate, names)
    stop = evaluate.stop
    if isinstance(stop, bool):
        return
    if stop.name not in names:
        known = ", ".join(dict.fromkeys(names)) or "none"
        raise WingsError(
            f"evaluate.stop.name: no held-out data is named {stop.name!r}"
            f"{nearest(stop.name, names)}; known: {known}."
        )
    _validate_positive("evaluate.stop.rise", stop.rise)


def _validate_best(evaluate: Evaluate, names: list[str]) -> None:
    figure = evaluate.best_figure
    if figure is None:
        if evaluate.load_best:
            raise WingsError(
                "evaluate.load_best: needs evaluate.best, the figure whose lowest value is the"
                " best, such as best: eval/text/loss."
            )
        return
    match = re.fullmatch(r"eval/([\w.-]+)/[\w.-]+", figure)
    if match is None or match[1] not in names:
        name = match[1] if match else figure
        known = ", ".join(f"eval/{name}/loss" for name in dict.fromkeys(names))
        raise WingsError(
            f"evaluate.best: no figure is named {evaluate.best!r}{nearest(name, names)}; known:"
            f" {known}."
        )
