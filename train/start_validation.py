"""Compares `wings`, `senses` and `lora` of a recipe with the config.json of its `start`."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from wings.config import WingsConfig
from wings.errors import WingsError, nearest
from wings.lora_options import LoraOptions
from wings.model.checkpoint import OF_SENSES
from wings.sense import IMAGE
from wings.train.recipe import Recipe
from wings.train.recipe_validation import validate_not_of_images


def validate_against_start(
    recipe: Recipe,
    options: Mapping[str, Any],
    changes: Mapping[str, Mapping[str, Any]],
    config: WingsConfig,
    start: str,
) -> None:
    """Check that no key drops, reshapes or reinterprets what `start` has trained.

    Parts that the checkpoint lacks may be added with any option.

    Args:
        recipe: recipe of the run.
        options: fields of `WingsConfig` that the run changes, those of its stage too.
        changes: the same of further senses, by name.
        config: configuration of the checkpoint.
        start: its folder or name, for the message.

    Raises:
        WingsError: names the key and both values.
    """
    for name, sense in config.senses.items():
        given = options if name == IMAGE else changes.get(name, {})
        key = "wings" if name == IMAGE else f"senses.{name}"
        learners = given.get("learners")
        lost = [] if learners is None else sorted({*sense.learners} - {*learners})
        if lost:
            raise WingsError(
                f"{key}.learners: {start} has trained {lost[0]} learners, which the recipe would"
                " drop; keep them, or start from a checkpoint without them."
            )
    prefix = options.get("prefix_length", config.prefix_length)
    if config.prefix_length and prefix != config.prefix_length:
        raise WingsError(
            f"wings.prefix_length: {start} has trained a prefix of {config.prefix_length} keys, "
            f"which the recipe would replace by {prefix!r}; keep it, or start from a checkpoint "
            "without it."
        )
    for name, part, old in _trained_with(config):
        given = options if name == IMAGE else changes.get(name, {})
        key = "wings" if name == IMAGE else f"senses.{name}"
        for field, value in old.items():
            new = given.get(field, value)
            same = new == value
            if field == "learner_layers":
                same = _layers(config, new) == _layers(config, value)
            if not same:
                raise _contradiction(f"{key}.{field}", start, part, value, new)
    for name, given in changes.items():
        fields = config.fields_of(name)
        for field, value in given.items():
            if field not in OF_SENSES and fields[field] != value:
                raise WingsError(
                    f"senses.{name}.{field}: {start} has {_word(fields[field])}, which stays;"
                    " remove the key."
                )
    _validate_adapters(recipe, config, start)


def validate_senses_of_start(
    recipe: Recipe, config: WingsConfig, start: str, added: Collection[str]
) -> None:
    """Check that the keys about senses fit those of `start` and those that the run adds.

    Args:
        recipe: recipe of the run.
        config: configuration of the checkpoint.
        start: its folder or name, for the message.
        added: names of the senses that the run adds.

    Raises:
        WingsError: names the key.
    """
    for name in added:
        if name in config.senses:
            key = {IMAGE: "vision"}.get(name, name)
            raise WingsError(
                f"model.{key}: {start} has the sense {name!r} already; remove the key, or start"
                " from a checkpoint without it."
            )
    known = [*config.senses, *added]
    trained = recipe.trained_senses
    for key, names in (("senses", recipe.senses), ("trained_senses", trained or ())):
        for name in names:
            if name not in known:
                raise WingsError(
                    f"{key}: {start} has no sense {name!r}{nearest(name, known)}; it has"
                    f" {', '.join(config.senses)}. Name its encoder in model to add it."
                )
    trained = [*(added or known)] if trained is None else trained
    for name in recipe.senses:
        if name not in trained:
            raise WingsError(
                f"senses.{name}: this run does not train the sense; name it in trained_senses, or"
                " remove the key."
            )
    if IMAGE not in trained:
        validate_not_of_images(recipe.wings)


def _trained_with(config: WingsConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Trained parts of a checkpoint, by sense, and the fields that fix what their weights mean."""
    for name, sense in config.senses.items():
        fields = config.fields_of(name)
        if sense.learners:
            names = ["rank", "learner_form", "normalize_sources", "learner_layers"]
            # A single learner shares nothing yet.
            names += ["share_factors"] if len(sense.learners) > 1 else []
            yield name, "learners", {one: fields[one] for one in names}
        elif name == IMAGE and config.prefix_length:
            yield name, "a prefix", {"learner_layers": config.learner_layers}
        if sense.is_routed:
            yield name, "a router", {"router": sense.router}
        if sense.is_routed and sense.router == "position":
            yield name, "a router", {"router_positions": sense.router_positions}
        if sense.is_routed and sense.router == "attended":
            names = ["gate_shape", *(["gate_power"] if sense.gate_shape == "hill" else [])]
            yield name, "a gate", {one: fields[one] for one in names}
    adapters = config.adapters
    if adapters is not None and adapters.gate == "attended":
        names = ["gate_shape", *(["gate_power"] if config.gate_shape == "hill" else [])]
        yield IMAGE, "a gate", {name: getattr(config, name) for name in names}


def _layers(config: WingsConfig, blocks: Any) -> list[int]:
    every = range(config.text_config.num_hidden_layers)
    return sorted(every if blocks is None else blocks)


def _validate_adapters(recipe: Recipe, config: WingsConfig, start: str) -> None:
    """Raises a `WingsError` where the recipe's adapters are not those of the checkpoint."""
    lora, had = recipe.lora, config.adapters
    if had is None:
        if lora is not None and lora.stages == "both" and recipe.stage == "instruct":
            raise WingsError(
                f"lora.stages: both stages train these adapters, but {start} has none; run stage"
                " align with the same lora first."
            )
        return
    if lora is None:
        return
    if lora.stages != "both":
        raise WingsError(
            f"lora.stages: {start} already has trained adapters; go on with them by stages: both."
        )
    wanted = LoraOptions.of(lora.options(recipe.stage))
    names = ["rank", "alpha", "targets", *(["gate"] if had.gate else [])]
    for name in names:
        old, new = getattr(had, name), getattr(wanted, name)
        if old != new:
            raise _contradiction(f"lora.{name}", start, "adapters", old, new)


def _contradiction(key: str, start: str, part: str, old: Any, new: Any) -> WingsError:
    old, new = (_word(value) for value in (old, new))
    return WingsError(
        f"{key}: {start} has {part} trained with {old}, and the recipe has {new}; set {old}, or"
        f" start from a checkpoint without {part}."
    )


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value) if isinstance(value, tuple) else value)
