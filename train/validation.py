"""Validates every value of a recipe before any work is done."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from wings.config import WingsConfig
from wings.errors import WingsError, nearest

from .metrics.trackers import validate_tracker_names

if TYPE_CHECKING:
    from wings.train.recipe import DataSource, Recipe

# The paper's rates for projector and language model. It gives none for learners and router, which
# take the projector's. Adapters take a usual LoRA rate. A prefix takes 100 times the projector's:
# its gates start at zero in this stage, and AdamW moves a gate by about one rate per step, so at
# 1e-5 a thousand steps would open it by 0.01 at most.
RATES: dict[str, dict[str, float]] = {
    "align": {"projector": 1e-3, "image_learners": 1e-3},
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

_POSITIVE = (
    "max_length", "epochs", "batch_size", "max_grad_norm", "log_every", "save_total_limit",
    "steps", "device_batch_size", "save_every",
)  # fmt: skip
_NOT_NEGATIVE = ("weight_decay", "workers", "seed")

# Fields of the configuration that model and processor set.
_DERIVED = {
    "text_config", "vision_config", "image_token_id", "image_seq_length", "tie_word_embeddings",
}  # fmt: skip


def validate_recipe(recipe: "Recipe") -> None:
    """Raise a `WingsError` that names the key of the first invalid value."""
    _validate_stage(recipe)
    _validate_numbers(recipe)
    _validate_batching(recipe)
    _validate_sources(recipe.data)
    _validate_text_turns(recipe)
    _validate_wings(recipe.stage, recipe.wings)
    _validate_lora(recipe)
    _validate_kl_to_base_keys(recipe)
    _validate_learning_rates(recipe)
    _validate_evaluate(recipe)
    validate_tracker_names(recipe.trackers or ())


def _validate_stage(recipe: "Recipe") -> None:
    if recipe.stage not in RATES:
        close = nearest(str(recipe.stage), RATES)
        raise WingsError(f"stage: {recipe.stage!r} is not one of {', '.join(RATES)}{close}.")
    if recipe.model and recipe.start:
        raise WingsError("model and start are both given; remove one of them.")
    if recipe.stage == "align" and recipe.freeze_llm is False:
        raise WingsError("freeze_llm: stage align never trains the LLM; use stage instruct.")
    if not recipe.data:
        raise WingsError("data: is empty; list at least one file of records.")


def _validate_batching(recipe: "Recipe") -> None:
    if recipe.batching == "pad":
        return
    for n, source in enumerate(recipe.data):
        if source.stream:
            raise WingsError(
                f"batching: {recipe.batching} needs record lengths in advance, which the stream"
                f" data.{n} does not have; use pad, or stream: false."
            )


def _validate_positive(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise WingsError(f"{name}: {value} must be larger than 0.")


def _validate_numbers(recipe: "Recipe") -> None:
    values: dict[str, Any] = {name: vars(recipe)[name] for name in _POSITIVE}
    for n, source in enumerate(recipe.data):
        values |= {
            f"data.{n}.{name}": vars(source)[name] for name in ("weight", "limit", "shuffle_buffer")
        }
    _validate_positive(values)
    for name in _NOT_NEGATIVE:
        if vars(recipe)[name] < 0:
            raise WingsError(f"{name}: {vars(recipe)[name]} must not be negative.")
    if not 0 <= recipe.warmup_ratio < 1:
        raise WingsError(
            f"warmup_ratio: {recipe.warmup_ratio} is not a share of the steps, 0 to 1."
        )
    small, whole = recipe.device_batch_size, recipe.batch_size
    if small and whole % small:
        raise WingsError(f"device_batch_size: {small} does not divide batch_size {whole}.")


def _validate_sources(sources: list["DataSource"]) -> None:
    for n, source in enumerate(sources):
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


def _validate_text_turns(recipe: "Recipe") -> None:
    turns = recipe.text_turns
    if turns is not None and not 0 < turns.share <= 1:
        raise WingsError(
            f"text_turns.share: {turns.share} is not a share above 0 and up to 1; 0.5 is half of"
            " the conversations with images; for none, remove the key text_turns."
        )


def _validate_wings(stage: str, wings: dict[str, Any]) -> None:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)} | _DERIVED
    known = {field.name for field in dataclasses.fields(WingsConfig)} - inherited
    for name in wings:
        if name not in known:
            raise WingsError(f"wings.{name}: no such option{nearest(name, known)}.")
    for name in ("router", "prefix"):
        if stage == "align" and wings.get(name):
            raise WingsError(f"wings.{name}: stage align has no {name}; set it in stage instruct.")
    if stage == "align" and not set(wings.get("learners") or ()) <= {"image"}:
        raise WingsError("wings.learners: stage align allows [image], or [] for only a projector.")


def _validate_lora(recipe: "Recipe") -> None:
    lora = recipe.lora
    if lora is None:
        return
    if recipe.stage == "align":
        raise WingsError("lora: stage align never trains the LLM; use stage instruct.")
    if recipe.freeze_llm is False:
        raise WingsError("freeze_llm: lora needs a frozen LLM; remove one of the two keys.")
    if recipe.parallel != "ddp":
        raise WingsError(f"lora: adapters cannot be merged under {recipe.parallel}; use ddp.")
    _validate_positive({"lora.rank": lora.rank, "lora.alpha": lora.alpha})
    if not 0 <= lora.dropout < 1:
        raise WingsError(f"lora.dropout: {lora.dropout} is not a share, 0 to 1.")
    if lora.targets == []:
        raise WingsError("lora.targets: name at least one layer, or remove the key for all.")


def _validate_kl_to_base_keys(recipe: "Recipe") -> None:
    if recipe.kl_to_base is None:
        return
    if not recipe.freeze_llm:
        raise WingsError(
            "kl_to_base: needs the original LLM, which this run trains; add freeze_llm: true or"
            " lora, or remove the key."
        )
    if not recipe.kl_to_base.weight > 0:
        raise WingsError(
            f"kl_to_base.weight: {recipe.kl_to_base.weight} must be larger than 0; for no KL,"
            " remove the key kl_to_base."
        )
    learners = ("image",) if recipe.stage == "align" else ("image", "text")
    validate_kl_to_base(
        recipe, recipe.wings.get("learners", learners), recipe.wings.get("text_guard", False)
    )


def validate_kl_to_base(recipe: "Recipe", learners: Sequence[str], text_guard: bool) -> None:
    """Raise a `WingsError` if `kl_to_base` would have no effect on this model.

    Args:
        recipe: recipe of the run.
        learners: learners of the model.
        text_guard: whether the model has a text guard.
    """
    if recipe.kl_to_base is None or recipe.text_turns is not None or recipe.lora is not None:
        return
    if text_guard or "text" not in learners:
        why = "under text_guard" if text_guard else "without a text learner"
        raise WingsError(
            f"kl_to_base: has no effect: {why}, text logits already equal the LLM's; add"
            " text_turns, whose answers follow images, or remove the key."
        )


def _validate_learning_rates(recipe: "Recipe") -> None:
    for group, rate in recipe.learning_rates.items():
        why = None
        if group == "vision_tower":
            why = "the vision tower is frozen in both stages"
        elif group not in RATES["instruct"]:
            why = f"no such group{nearest(group, RATES['instruct'])}"
        elif group not in RATES[recipe.stage]:
            why = f"stage {recipe.stage} does not train this group; remove the rate"
        elif group == "language_model" and recipe.freeze_llm:
            adapters = recipe.lora is not None
            why = (
                "lora keeps the LLM frozen; set learning_rates.lora"
                if adapters
                else "freeze_llm is on"
            )
            why += "" if adapters else "; remove the rate"
        elif group == "lora" and recipe.lora is None:
            why = "there are no adapters; add lora, or remove the rate"
        elif not rate > 0:
            why = f"{rate} must be larger than 0"
        if why:
            raise WingsError(f"learning_rates.{group}: {why}.")


def _validate_evaluate(recipe: "Recipe") -> None:
    evaluate = recipe.evaluate
    if evaluate is None:
        return
    if not evaluate.data:
        raise WingsError("evaluate.data: is empty; list held-out files, each with a name.")
    _validate_positive({"evaluate.every": evaluate.every})
    for n, source in enumerate(evaluate.data):
        place = f"evaluate.data.{n}"
        # The name becomes a part of metric names, which trackers read as a path.
        if not re.fullmatch(r"[\w.-]+", source.name):
            raise WingsError(
                f"{place}.name: {source.name!r} may only have letters, digits, '_', '-' and '.'."
            )
        if source.weight != 1.0:
            raise WingsError(f"{place}.weight: each held-out record counts once; use limit.")
        _validate_positive({f"{place}.limit": source.limit})
    names = [source.name for source in evaluate.data]
    stop = evaluate.stop
    if stop is None:
        return
    if stop.name not in names:
        known = ", ".join(dict.fromkeys(names))
        raise WingsError(
            f"evaluate.stop.name: no held-out data is named {stop.name!r}"
            f"{nearest(stop.name, names)}; known: {known}."
        )
    _validate_positive({"evaluate.stop.rise": stop.rise})
