"""Compares `wings` and `lora` of a recipe with the config.json of its `start`."""

from collections.abc import Iterator, Mapping
from typing import Any

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.lora_options import LoraOptions
from wings.train.recipe import Recipe


def validate_against_start(
    recipe: Recipe, options: Mapping[str, Any], config: WingsConfig, start: str
) -> None:
    """Check that no key drops, reshapes or reinterprets what `start` has trained.

    Parts that the checkpoint lacks may be added with any option.

    Args:
        recipe: recipe of the run.
        options: fields of `WingsConfig` that the run changes, those of its stage too.
        config: configuration of the checkpoint.
        start: its folder or name, for the message.

    Raises:
        WingsError: names the key and both values.
    """
    if config.other_senses:
        raise WingsError(
            f"start: {start} has the sense {next(iter(config.other_senses))!r}, and recipes train"
            " images only; train a checkpoint without it, and put both together with wings compose."
        )
    lost = sorted(set(config.learners) - set(options.get("learners", config.learners)))
    if lost:
        raise WingsError(
            f"wings.learners: {start} has trained {lost[0]} learners, which the recipe would drop;"
            " keep them, or start from a checkpoint without them."
        )
    prefix = options.get("prefix_length", config.prefix_length)
    if config.prefix_length and prefix != config.prefix_length:
        raise WingsError(
            f"wings.prefix_length: {start} has trained a prefix of {config.prefix_length} keys, "
            f"which the recipe would replace by {prefix!r}; keep it, or start from a checkpoint "
            "without it."
        )
    for part, old in _trained_with(config):
        for name, value in old.items():
            new = options.get(name, value)
            same = new == value
            if name == "learner_layers":
                same = _layers(config, new) == _layers(config, value)
            if not same:
                raise _contradiction(f"wings.{name}", start, part, value, new)
    _validate_adapters(recipe, config, start)


def _trained_with(config: WingsConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Trained parts of a checkpoint and the fields that fix what their weights mean."""
    if config.learners:
        names = ["rank", "learner_form", "normalize_sources", "learner_layers"]
        # A single learner shares nothing yet.
        names += ["share_factors"] if len(config.learners) > 1 else []
        yield "learners", {name: getattr(config, name) for name in names}
    elif config.prefix_length:
        yield "a prefix", {"learner_layers": config.learner_layers}
    adapters = config.adapters
    is_gated = adapters is not None and adapters.gate == "attended"
    if config.is_routed:
        yield "a router", {"router": config.router}
    if config.is_routed and config.router == "position":
        yield "a router", {"router_positions": config.router_positions}
    if is_gated or (config.is_routed and config.router == "attended"):
        names = ["gate_shape", *(["gate_power"] if config.gate_shape == "hill" else [])]
        yield "a gate", {name: getattr(config, name) for name in names}


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
