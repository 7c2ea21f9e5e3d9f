"""The recipe of a training run: read from YAML, validated, stored with the result."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from wings.errors import WingsError, nearest
from wings.processing.item_encoder import AUDIO
from wings.processing.video_sampling import VideoSampling
from wings.records.record_source import Limits, PathKind
from wings.sense import IMAGE
from wings.train.recipe_file import fill, validate_types
from wings.train.recipe_paths import located_paths, same_place, written_paths
from wings.train.recipe_values import read_values
from wings.train.recipe_yaml import write_yaml

from .metrics.trackers import validate_tracker_names
from .recipe_difference import changed_keys, describe_changes
from .recipe_parts import (
    DataSource,
    EarlyStop,
    Evaluate,
    HeldOutSource,
    KLToBase,
    Lora,
    ModelNames,
    TextTurns,
)
from .recipe_validation import (
    validate_evaluate,
    validate_kl_weight,
    validate_lora,
    validate_not_of_images,
    validate_numbers,
    validate_senses,
    validate_sources,
    validate_text_turns,
    validate_wings,
)
from .stages import PARTS, RATES, groups_of, is_trained, parts_of_sense, role_of, sense_of

__all__ = [
    "CONTINUABLE",
    "OPERATIONAL",
    "PARTS",
    "RATES",
    "DataSource",
    "EarlyStop",
    "Evaluate",
    "HeldOutSource",
    "KLToBase",
    "Limits",
    "Lora",
    "ModelNames",
    "Recipe",
    "TextTurns",
    "validate_kl_to_base",
    "validate_recipe",
    "why_text_is_kept",
]

_LARGEST_RATE = 100.0

# Of each sense of a model, its learners and whether they have a guard.
Guards = Sequence[tuple[Sequence[str], bool]]

# Keys that do not change the result of a run. They may differ when a run is resumed.
OPERATIONAL = (
    "output",
    "device_batch_size",
    "workers",
    "limits",
    "log_every",
    "save_every",
    "save_total_limit",
    "gradient_checkpointing",
    "loss_chunk",
    "trackers",
    "parallel",
    "feature_cache",
    "allow_changed_data",
)
# Keys that may change over a run: a longer one goes on from the last checkpoint, and the finished
# model is one of its checkpoints or another.
CONTINUABLE = ("steps", "epochs", "evaluate.load_best")


@dataclass
class Recipe:
    """One run of one stage. `from_yaml` reads it; all values are validated on creation.

    Attributes:
        stage: `align` trains projector and visual learners with a frozen LLM; `instruct` trains
            everything.
        output: folder of the result.
        data: the training records, mixed.
        text_turns: text exchanges appended to conversations with images.
        model: parts of a fresh model; or, besides `start`, encoders of senses to add to it.
        start: a Wings checkpoint to train further (stage 1's output for stage 2).
        wings: options of the model, as in `WingsConfig`; those of images are here.
        senses: options of further senses by name, such as `audio: {rank: 16}`.
        trained_senses: names of the senses whose projector, learners and router are trained; those
            of others are frozen. Default: the senses that `model` adds to `start`, or else all.
        freeze_llm: freeze the LLM. Always true in `align`; false by default in `instruct`.
        trained_layers: names of the LLM's layers that are trained, such as `q_proj`; the rest is
            frozen. Default: all of it, unless `freeze_llm`.
        lora: adapters on the frozen LLM, merged in the finished model unless they are guarded.
        kl_to_base: KL that keeps answers to text close to those of the LLM, which must be frozen.
        learning_rates: learning rate per parameter group; default: the paper's.
        video_sampling: which frames are taken of videos without options of their own; default:
            8 of each, or what `start` has. The finished model's processor keeps it.
        max_length (tokens): length of the longest sample, image features included; older turns are
            dropped to fit.
        on_bad_record: `stop` with an error, or `skip`: use the next good record instead, and count.
        limits: bytes, pixels and seconds that a record may cost.
        epochs (passes over the data): length of the run, unless `steps` gives it.
        steps (steps): length of the run.
        batch_size (samples): samples per optimiser step over all processes and accumulation.
        batching: `pad` puts one sample in each row. `group` also makes batches of similar lengths,
            with images and text apart. `pack` concatenates samples in rows of up to `max_length`
            tokens and gives every step about as many tokens.
        device_batch_size (samples): samples per forward of one process; the rest is accumulated.
            Default: no accumulation.
        warmup_ratio: share of the steps with linear warmup, the first of which has rate 0; a cosine
            to zero follows.
        weight_decay: of matrices, per step and times the learning rate; norms, biases and gates
            have none.
        max_grad_norm: norm to which larger gradients are scaled down.
        seed: of new weights, of the order of the data and of all draws.
        bf16: compute in bfloat16, and hold frozen weights in it where that is exact.
        gradient_checkpointing: recompute the blocks in the backward: less memory, a third more
            time.
        loss_chunk (tokens): tokens whose logits exist at one time in the loss, which is the same;
            less memory with a large vocabulary. 0 for all; `kl_to_base` needs all.
        parallel: `ddp` (each process holds the whole model) or `fsdp` (weights, gradients and
            optimiser are sharded).
        feature_cache: folder in which features of the frozen encoders are kept, so that each item
            goes through its encoder once; stages and runs may share it. Default: none.
        workers (processes): processes that read and decode data, per training process.
        log_every (steps): steps between logged metrics.
        save_every (steps): steps between checkpoints to resume from; none by default.
        save_total_limit (checkpoints): checkpoints that stay, the last ones.
        allow_changed_data: resume although a file that the recipe names has changed since the run
            began; false by default.
        evaluate: held-out records, and text after images, whose loss is tracked during training.
        trackers: receivers of metrics, by their names in transformers' `Trainer` (tensorboard,
            wandb, mlflow, ...); [] for none. Default: tensorboard if installed.
    """

    stage: Literal["align", "instruct"]
    output: Annotated[str, PathKind.FILE]
    data: list[DataSource]
    text_turns: TextTurns | None = None
    model: ModelNames | None = None
    start: Annotated[str, PathKind.CHECKPOINT] | None = None
    wings: dict[str, Any] = field(default_factory=dict)
    senses: dict[str, Any] = field(default_factory=dict)
    trained_senses: list[str] | None = None
    freeze_llm: bool | None = None
    trained_layers: list[str] | None = None
    lora: Lora | None = None
    kl_to_base: KLToBase | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
    video_sampling: VideoSampling | None = None
    max_length: int = 2048
    on_bad_record: Literal["stop", "skip"] = "stop"
    limits: Limits = field(default_factory=Limits)
    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 32
    batching: Literal["pad", "group", "pack"] = "pad"
    device_batch_size: int | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    loss_chunk: int = 1024
    parallel: Literal["ddp", "fsdp"] = "ddp"
    feature_cache: Annotated[str, PathKind.FILE] | None = None
    workers: int = 0
    log_every: int = 10
    save_every: int | None = None
    save_total_limit: int = 2
    allow_changed_data: bool = False
    evaluate: Evaluate = field(default_factory=Evaluate)
    trackers: list[str] | None = None

    def __post_init__(self) -> None:
        validate_types(self, "recipe")
        if self.freeze_llm is None:
            self.freeze_llm = self.stage == "align" or self.lora is not None
        # YAML has no tuples; lists let a recipe that is read back compare equal.
        self.wings = {k: list(v) if isinstance(v, tuple) else v for k, v in self.wings.items()}
        validate_recipe(self)

    def learning_rate(self, group: str) -> float:
        """Learning rate of a parameter group; default: the paper's for this stage."""
        return self.learning_rates.get(group, RATES[self.stage][role_of(group)])

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe file; `overrides` are `dotted.key=value` with YAML values.

        Paths in the file are relative to its folder, and those of overrides to the working folder.

        Raises:
            WingsError: names the file, the key path and the nearest known name.
        """
        path = Path(path).expanduser()
        values = read_values(cls, path, overrides)
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: Any, where: str = "recipe") -> "Recipe":
        """Read a plain mapping, as from `to_dict`; errors name `where`."""
        try:
            return fill(cls, values, where)
        except WingsError as error:
            text = str(error)
            raise (error if text.startswith(where) else WingsError(f"{where}: {text}")) from None

    def to_dict(self) -> dict[str, Any]:
        """Convert to a plain mapping with all defaults."""
        return dataclasses.asdict(self)

    def to_yaml(self, folder: str | Path | None = None) -> str:
        """Convert to YAML with all defaults, readable by `from_yaml`.

        Args:
            folder: of the file that the text is for; default: the working folder.
        """
        values = self.to_dict()
        if folder is not None:
            values = written_paths(Recipe, values, Path(folder))
            if same_place(self.output, str(folder)):
                values["output"] = "."
        return write_yaml(values)

    @property
    def chunk_of_loss(self) -> int | None:
        """`loss_chunk` of training passes; None where all logits exist at one time."""
        return None if self.kl_to_base else self.loss_chunk or None

    def difference(self, other: "Recipe", ignored: Sequence[str] = ()) -> str | None:
        """The keys that make `other` another run, as `key 1 (now 2)`, or None.

        Args:
            other: an earlier recipe.
            ignored: dotted keys that may differ, besides the operational ones.
        """
        skipped = (*OPERATIONAL, *ignored)
        old, new = (located_paths(Recipe, one.to_dict()) for one in (other, self))
        return describe_changes(list(changed_keys(old, new, skipped)))


def validate_recipe(recipe: Recipe) -> None:
    """Raise a `WingsError` that names the key of the first invalid value."""
    _validate_stage(recipe)
    validate_numbers(vars(recipe), recipe.limits)
    validate_sources(recipe.data)
    validate_text_turns(recipe.text_turns)
    validate_wings(recipe.stage, recipe.wings)
    validate_senses(recipe.stage, recipe.senses)
    _validate_model(recipe)
    validate_lora(recipe.lora)
    validate_kl_weight(recipe.kl_to_base)
    validate_evaluate(recipe.evaluate)
    validate_tracker_names(recipe.trackers or ())
    _validate_batching(recipe)
    _validate_feature_cache(recipe)
    _validate_lora_use(recipe)
    _validate_kl_use(recipe)
    _validate_learning_rates(recipe)


def _validate_stage(recipe: Recipe) -> None:
    if recipe.stage == "align" and recipe.freeze_llm is False:
        raise WingsError("freeze_llm: stage align never trains the LLM; use stage instruct.")
    if recipe.trained_layers is not None:
        if recipe.freeze_llm:
            raise WingsError(
                "trained_layers: the LLM is frozen; remove the key, or lora and freeze_llm, and use"
                " stage instruct."
            )
        if not recipe.trained_layers:
            raise WingsError("trained_layers: is empty; name layers, or set freeze_llm: true.")


def _validate_model(recipe: Recipe) -> None:
    """Raises a `WingsError` if `model` does not fit `start`, or a key is about another sense."""
    model, trained = recipe.model, recipe.trained_senses
    if model is not None:
        if recipe.start and model.text:
            raise WingsError(
                "model.text: start has a language model too; remove one of them. With start, model"
                " names encoders of senses to add."
            )
        if not recipe.start and not model.text:
            raise WingsError("model.text: is missing; name the language model.")
        if not model.encoders:
            raise WingsError("model: names no encoder; add vision, audio or both.")
    if trained is not None:
        if len({*trained}) < len(trained):
            raise WingsError("trained_senses: names a sense twice; remove one.")
        if not trained and recipe.freeze_llm and recipe.lora is None:
            raise WingsError("trained_senses: is empty, and the LLM is frozen; name a sense.")
    if recipe.start or model is None:
        # The senses of a start are in its config.json.
        return
    names = ", ".join(model.encoders)
    for key, senses in (("senses", recipe.senses), ("trained_senses", trained or ())):
        for name in senses:
            if name not in model.encoders:
                raise WingsError(
                    f"{key}: the model has no sense {name!r}, only {names}; name its encoder in"
                    " model, or remove it."
                )
    if model.vision is None:
        validate_not_of_images(recipe.wings)


def _validate_batching(recipe: Recipe) -> None:
    if recipe.batching == "pad":
        return
    for n, source in enumerate(recipe.data):
        if source.stream:
            raise WingsError(
                f"batching: {recipe.batching} needs record lengths in advance, which the stream"
                f" data.{n} does not have; use pad, or stream: false."
            )


def _validate_feature_cache(recipe: Recipe) -> None:
    if recipe.feature_cache is None:
        return
    if recipe.parallel != "ddp":
        raise WingsError(
            f"feature_cache: {recipe.parallel} gathers an encoder's weights in all processes at"
            " once, also in those that need no features; remove the key, or use ddp."
        )
    folder, output = (
        Path(one).expanduser().resolve() for one in (recipe.feature_cache, recipe.output)
    )
    if folder.is_relative_to(output):
        raise WingsError(
            f"feature_cache: {recipe.feature_cache} is in output, the folder of one run; name a"
            " folder beside it."
        )


def _validate_lora_use(recipe: Recipe) -> None:
    lora = recipe.lora
    if lora is None:
        return
    if recipe.stage == "align" and lora.stages != "both":
        raise WingsError(
            "lora: stage align trains adapters only with lora.stages: both; add it, or use stage"
            " instruct."
        )
    if recipe.freeze_llm is False:
        raise WingsError("freeze_llm: lora needs a frozen LLM; remove one of the two keys.")
    if recipe.parallel != "ddp" and not lora.is_kept:
        raise WingsError(f"lora: adapters cannot be merged under {recipe.parallel}; use ddp.")


def _validate_kl_use(recipe: Recipe) -> None:
    if recipe.kl_to_base is None:
        return
    if not recipe.freeze_llm:
        raise WingsError(
            "kl_to_base: needs the original LLM, which this run trains; add freeze_llm: true or"
            " lora, or remove the key."
        )
    learners = ("image",) if recipe.stage == "align" else ("image", "text")
    guards = [(recipe.wings.get("learners", learners), recipe.wings.get("text_guard", False))]
    if recipe.model is not None and recipe.start is None:
        guards = guards if recipe.model.vision else []
    for name, fields in recipe.senses.items():
        of_stage = parts_of_sense(recipe.stage, name)["learners"]
        guards.append((fields.get("learners", of_stage), fields.get("guard", True)))
    validate_kl_to_base(recipe, guards, recipe.wings.get("prefix_length", 0))


def why_text_is_kept(recipe: Recipe, guards: Guards, prefix: int) -> str | None:
    """The reason why text without an image keeps the LLM's logits exactly; None if it may not.

    Args:
        recipe: recipe of the run.
        guards: of each sense of the model, its learners and whether they have a guard.
        prefix: length of the model's prefix.
    """
    lora = recipe.lora
    is_free = lora is not None and not (lora.guard or lora.gate)
    changes_text = any("text" in learners and not guard for learners, guard in guards)
    if not recipe.freeze_llm or prefix or is_free or changes_text:
        return None
    has_text_learner = any("text" in learners for learners, _ in guards)
    is_guarded = has_text_learner or any(guard for _, guard in guards)
    return "under text_guard" if is_guarded else "without a text learner"


def validate_kl_to_base(recipe: Recipe, guards: Guards, prefix: int) -> None:
    """Raise a `WingsError` if `kl_to_base` would have no effect on this model.

    The arguments are those of `why_text_is_kept`.
    """
    why = why_text_is_kept(recipe, guards, prefix)
    if recipe.kl_to_base is not None and recipe.text_turns is None and why:
        raise WingsError(
            f"kl_to_base: has no effect: {why}, text logits already equal the LLM's; add"
            " text_turns, whose answers follow images, or remove the key."
        )


def _validate_learning_rates(recipe: Recipe) -> None:
    for group, rate in recipe.learning_rates.items():
        why = None
        sense = sense_of(group)
        if role_of(group) == "vision_tower":
            encoder = "vision tower" if sense == IMAGE else f"encoder of {sense}"
            why = f"the {encoder} is frozen in both stages"
        elif not is_trained("instruct", group):
            why = f"no such group{nearest(group, groups_of(AUDIO))}"
        elif sense is not None and sense not in (recipe.trained_senses or [sense]):
            why = f"trained_senses does not name {sense}; remove the rate, or name it"
        elif not is_trained(recipe.stage, group):
            why = f"stage {recipe.stage} does not train this group; remove the rate"
        elif group == "language_model" and recipe.freeze_llm:
            why = (
                "freeze_llm is on; remove the rate"
                if recipe.lora is None
                else "lora keeps the LLM frozen; set learning_rates.lora"
            )
        elif group == "lora" and recipe.lora is None:
            why = "there are no adapters; add lora, or remove the rate"
        elif not 0 < rate <= _LARGEST_RATE:
            why = f"{rate} must be larger than 0 and at most {_LARGEST_RATE:g}"
        if why:
            raise WingsError(f"learning_rates.{group}: {why}.")
