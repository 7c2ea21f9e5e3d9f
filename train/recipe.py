"""The recipe of a training run: read from YAML, validated, stored with the result."""

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers import PreTrainedConfig

from wings.config import WingsConfig, validate_field
from wings.errors import WingsError, nearest
from wings.processing.image_limits import ImageLimits
from wings.train.recipe_file import fill, override, read_yaml, validate_types

from .metrics.trackers import validate_tracker_names

# The paper's rates for projector and language model. It gives none for learners and router, which
# take the projector's. Adapters take a usual LoRA rate. A prefix takes 100 times the projector's:
# its gates start at zero in this stage, and AdamW moves a gate by about one rate per step, so at
# 1e-5 a thousand steps would open it by 0.01 at most.
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

_POSITIVE = (
    "max_length", "epochs", "batch_size", "max_grad_norm", "log_every", "save_total_limit",
    "steps", "device_batch_size", "save_every",
)  # fmt: skip
_NOT_NEGATIVE = ("weight_decay", "workers", "seed")
# The largest values: far more than anyone needs, and less than what breaks a later step.
_MOST: dict[str, float] = {
    "max_length": 2**24, "epochs": 1e6, "batch_size": 2**20, "device_batch_size": 2**20,
    "max_grad_norm": 1e9, "weight_decay": 100.0, "workers": 512, "seed": 2**32 - 1,
    "steps": 1e9, "save_every": 1e9, "log_every": 1e9, "save_total_limit": 1e9,
}  # fmt: skip
_MOST_OF_SOURCES = {"weight": 1e6, "limit": 1e15, "shuffle_buffer": 1e8}
_MOST_OF_LIMITS = {
    "image_bytes": 2**40,
    "image_pixels": 2**34,
    "url_seconds": 86_400.0,
    "record_bytes": 2**40,
}
_LARGEST_RATE = 100.0

# Fields of the configuration that model and processor set.
_DERIVED = {
    "text_config", "vision_config", "image_token_id", "image_seq_length", "tie_word_embeddings",
    "lora",
}  # fmt: skip

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
    "trackers",
    "parallel",
    "allow_changed_data",
)


@dataclass
class DataSource:
    """One entry of `data`: a file, several files, or a dataset.

    Attributes:
        path: a `.json` (LLaVA's list), `.jsonl`, `.parquet` or `.tar` (WebDataset shards) file; a
            folder, a pattern (`parts/*.jsonl`) or a range (`shards-{000..012}.tar`) of them; a
            folder from `save_to_disk`; with `split`, a dataset's Hub name or folder.
        images: folder that image paths are relative to; default: the folder of `path`.
        weight: passes over the records per epoch; 0.1 takes a fresh tenth in every epoch.
        share: instead of a weight, the share of an epoch's samples: 0.1 for 10 percent.
        limit: use only this many records, from the first.
        split: split to read with Hugging Face `datasets` (memory-mapped: any size).
        subset: configuration of the dataset.
        stream: read while training, without a copy on disk; each reading process (workers times
            GPUs) reads the whole stream.
        shuffle_buffer: records of a stream that are shuffled together in memory.
    """

    path: str
    images: str | None = None
    weight: float = 1.0
    share: float | None = None
    limit: int | None = None
    split: str | None = None
    subset: str | None = None
    stream: bool = False
    shuffle_buffer: int = 1000


@dataclass
class TextTurns:
    """Appends a text exchange to conversations with images.

    The hardest case for a learner is text after an image: it sees the image, but the LLM should
    answer alone. Data whose questions all ask about the image never contain that case.

    Attributes:
        path: text conversations, as `path` of `data`; the first question and answer of each.
        share: probability that a conversation with images gets one; 0.5 for half of them. The draw
            depends on `seed` and the record's number. A conversation gets none if it would then
            exceed `max_length` and lose turns.
    """

    path: str
    share: float


@dataclass
class ModelNames:
    """Parts of a fresh model: an open_clip vision tower and a Hugging Face decoder LLM.

    Attributes:
        vision: an open_clip or timm name, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, or a mapping of
            the tower's options with `model_name`.
        text: a Hub id or a folder of a decoder LLM.
    """

    vision: str | dict[str, Any]
    text: str

    def __str__(self) -> str:
        vision = self.vision if isinstance(self.vision, str) else "a configured vision tower"
        return f"{self.text} and {vision}"


@dataclass
class HeldOutSource(DataSource):
    """Records that are evaluated during training and never trained on.

    Attributes:
        name: names the metric `eval/NAME/loss`; entries with one name form one set.
    """

    name: str = field(kw_only=True)


@dataclass
class EarlyStop:
    """Ends the run when a held-out loss rises too far.

    Attributes:
        name: name of a held-out set (YAML reads a bare `on` as true).
        rise: largest allowed increase of its loss since the start, in nats per token.
    """

    name: str
    rise: float


@dataclass
class Evaluate:
    """Losses on held-out records at the start, during training and at the end.

    Attributes:
        data: the records, each entry with a name.
        every: steps between evaluations.
        stop: early stopping; none by default.
    """

    data: list[HeldOutSource]
    every: int = 500
    stop: EarlyStop | None = None


@dataclass
class Limits(ImageLimits):
    """Bounds on the cost of a record; `on_bad_record` decides about one beyond them.

    Attributes:
        record_bytes: bytes of a record's JSON or caption. Parsing takes up to 50 times as many.
    """

    record_bytes: int = 64 * 2**20


@dataclass
class Lora:
    """Low-rank adapters on the frozen language model.

    Plain ones (peft's LoRA) are merged into the language model at the end of the run. With a guard,
    a gate or both stages they stay adapters, which the checkpoint keeps: `WingsConfig.lora`.

    Attributes:
        rank, alpha: of the adapters; their output is scaled by alpha / rank.
        dropout: on the input of the adapters.
        targets: names of the layers with an adapter, such as `q_proj`; default: all linear layers
            of all blocks.
        guard: adapters act only on tokens that can see an image, so text alone is exactly the
            language model's.
        gate: weight of a token's adapters: `attended` (as by the attended router) or `image_tokens`
            (1 on image tokens, 0 elsewhere); default: 1. As a router, it joins in stage instruct.
        stages: `instruct`, or `both` for adapters that stage align trains and instruct goes on
            with; then both recipes say so.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] | None = None
    guard: bool = False
    gate: Literal["attended", "image_tokens"] | None = None
    stages: Literal["instruct", "both"] = "instruct"

    @property
    def is_kept(self) -> bool:
        """Returns whether the checkpoint keeps the adapters, unmerged."""
        return self.guard or self.gate is not None or self.stages == "both"

    def options(self, stage: str) -> dict[str, Any]:
        """The value of `WingsConfig.lora` in a stage."""
        # The attended gate reads what a router reads, and stage align has none.
        gate = None if stage == "align" and self.gate == "attended" else self.gate
        return {
            "rank": self.rank, "alpha": self.alpha, "dropout": self.dropout,
            "targets": self.targets, "guard": self.guard or self.gate is not None, "gate": gate,
        }  # fmt: skip


@dataclass
class KLToBase:
    """Keeps answers to text close to those of the frozen language model.

    Adds `weight` times KL(LLM || model) to the loss, a mean over the masked tokens of the global
    batch. Masked are the answers in conversations without images, and the answers of `text_turns`,
    which the language model gives without the images before them. Other answers after an image are
    not, because the language model does not see it. This costs a forward of the language model on
    the masked conversations, and no second model in memory.

    Attributes:
        weight: weight of the KL; the KL and the loss are in nats per token.
    """

    weight: float


@dataclass
class Recipe:
    """One run of one stage. `from_yaml` reads it; all values are validated on creation.

    Attributes:
        stage: `align` trains projector and visual learners with a frozen LLM; `instruct` trains
            everything.
        output: folder of the result; relative paths are relative to the working directory.
        data: the training records, mixed.
        text_turns: text exchanges appended to conversations with images.
        model: parts of a fresh model. Either this or `start`.
        start: a Wings checkpoint to train further (stage 1's output for stage 2).
        wings: options of the model, as in `WingsConfig`.
        freeze_llm: freeze the LLM. Always true in `align`; false by default in `instruct`.
        trained_layers: names of the LLM's layers that are trained, such as `q_proj`; the rest is
            frozen. Default: all of it, unless `freeze_llm`.
        lora: adapters on the frozen LLM, merged in the finished model unless they are guarded.
        kl_to_base: KL that keeps answers to text close to those of the LLM, which must be frozen.
        learning_rates: learning rate per parameter group; default: the paper's.
        max_length: tokens (image features included) of the longest sample; older turns are dropped
            to fit.
        on_bad_record: `stop` with an error, or `skip`: use the next good record instead, and count.
        limits: bytes, pixels and seconds that a record may cost.
        epochs, steps: length of the run; `steps` overrides `epochs`.
        batch_size: samples per optimiser step over all processes and accumulation.
        batching: `pad` puts one sample in each row. `group` also makes batches of similar lengths,
            with images and text apart. `pack` concatenates samples in rows of up to `max_length`
            tokens and gives every step about as many tokens.
        device_batch_size: samples per forward of one process; the rest is accumulated. Default: no
            accumulation.
        warmup_ratio: share of the steps with linear warmup; a cosine to zero follows.
        weight_decay: of matrices, per step and times the learning rate; norms, biases and gates
            have none.
        max_grad_norm: norm to which larger gradients are scaled down.
        seed: of new weights, of the order of the data and of all draws.
        bf16: compute in bfloat16, and hold frozen weights in it where that is exact.
        gradient_checkpointing: recompute the blocks in the backward: less memory, a third more
            time.
        parallel: `ddp` (each process holds the whole model) or `fsdp` (weights, gradients and
            optimiser are sharded).
        workers: processes that read and decode data, per training process.
        log_every: steps between logged metrics.
        save_every: steps between checkpoints to resume from; none by default.
        save_total_limit: checkpoints that stay, the last ones.
        allow_changed_data: resume although a file that the recipe names has changed since the run
            began; false by default.
        evaluate: held-out records whose loss is tracked during training.
        trackers: receivers of metrics, by their names in transformers' `Trainer` (tensorboard,
            wandb, mlflow, ...); [] for none. Default: tensorboard if installed.
    """

    stage: Literal["align", "instruct"]
    output: str
    data: list[DataSource]
    text_turns: TextTurns | None = None
    model: ModelNames | None = None
    start: str | None = None
    wings: dict[str, Any] = field(default_factory=dict)
    freeze_llm: bool | None = None
    trained_layers: list[str] | None = None
    lora: Lora | None = None
    kl_to_base: KLToBase | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
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
    parallel: Literal["ddp", "fsdp"] = "ddp"
    workers: int = 0
    log_every: int = 10
    save_every: int | None = None
    save_total_limit: int = 2
    allow_changed_data: bool = False
    evaluate: Evaluate | None = None
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
        return self.learning_rates.get(group, RATES[self.stage][group])

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe file; `overrides` are `dotted.key=value` with YAML values.

        Raises:
            WingsError: names the file, the key path and the nearest known name.
        """
        path = Path(path).expanduser()
        # os.path, because a name that is too long is an error of pathlib.
        if not os.path.isfile(path):
            raise WingsError(f"{path!s:.200}: no such recipe file; check the name.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WingsError(f"{path}: not readable ({error}).") from error
        values = read_yaml(text, str(path))
        for change in overrides if isinstance(values, dict) else ():
            override(values, change)
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

    def to_yaml(self) -> str:
        """Convert to YAML with all defaults, readable by `from_yaml`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def difference(self, other: "Recipe") -> str | None:
        """The first key that makes `other` another run, as `key 1 (now 2)`, or None."""
        mine, theirs = self.to_dict(), other.to_dict()
        for key in mine:
            if key not in OPERATIONAL and mine[key] != theirs[key]:
                return f"{key} {theirs[key]!r} (now {mine[key]!r})"
        return None


def validate_recipe(recipe: Recipe) -> None:
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


def _validate_stage(recipe: Recipe) -> None:
    if recipe.stage not in RATES:
        close = nearest(str(recipe.stage), RATES)
        raise WingsError(f"stage: {recipe.stage!r} is not one of {', '.join(RATES)}{close}.")
    if recipe.model and recipe.start:
        raise WingsError("model and start are both given; remove one of them.")
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
    if not recipe.data:
        raise WingsError("data: is empty; list at least one file of records.")


def _validate_batching(recipe: Recipe) -> None:
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


def _validate_numbers(recipe: Recipe) -> None:
    values: dict[str, Any] = {name: vars(recipe)[name] for name in _POSITIVE}
    for n, source in enumerate(recipe.data):
        values |= {
            f"data.{n}.{name}": vars(source)[name] for name in ("weight", "limit", "shuffle_buffer")
        }
    _validate_positive(values)
    limits = vars(recipe.limits)
    _validate_positive({f"limits.{name}": limits[name] for name in _MOST_OF_LIMITS})
    _validate_most(vars(recipe), _MOST, "")
    _validate_most(limits, _MOST_OF_LIMITS, "limits.")
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


def _validate_most(values: dict[str, Any], most: dict[str, float], where: str) -> None:
    for name, largest in most.items():
        if values[name] is not None and values[name] > largest:
            raise WingsError(
                f"{where}{name}: {values[name]} is too large; the most is {largest:,.0f}."
            )


def _validate_sources(sources: list[DataSource]) -> None:
    for n, source in enumerate(sources):
        _validate_most(vars(source), _MOST_OF_SOURCES, f"data.{n}.")
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


def _validate_text_turns(recipe: Recipe) -> None:
    turns = recipe.text_turns
    if turns is not None and not 0 < turns.share <= 1:
        raise WingsError(
            f"text_turns.share: {turns.share} is not a share above 0 and up to 1; 0.5 is half of"
            " the conversations with images; for none, remove the key text_turns."
        )


def wings_options() -> list[str]:
    """The fields of `WingsConfig` that a recipe may set, in their order."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)} | _DERIVED
    return [f.name for f in dataclasses.fields(WingsConfig) if f.name not in inherited]


def _validate_wings(stage: str, wings: dict[str, Any]) -> None:
    known = wings_options()
    for name, value in wings.items():
        if name not in known:
            raise WingsError(f"wings.{name}: no such option{nearest(name, known)}.")
        validate_field(name, value, "wings.")
    for name in ("router", "prefix"):
        if stage == "align" and wings.get(name):
            raise WingsError(f"wings.{name}: stage align has no {name}; set it in stage instruct.")
    if stage == "align" and not set(wings.get("learners") or ()) <= {"image"}:
        raise WingsError("wings.learners: stage align allows [image], or [] for only a projector.")


def _validate_lora(recipe: Recipe) -> None:
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
    _validate_positive({"lora.rank": lora.rank, "lora.alpha": lora.alpha})
    if not 0 <= lora.dropout < 1:
        raise WingsError(f"lora.dropout: {lora.dropout} is not a share, 0 to 1.")
    if lora.targets == []:
        raise WingsError("lora.targets: name at least one layer, or remove the key for all.")


def _validate_kl_to_base_keys(recipe: Recipe) -> None:
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


def validate_kl_to_base(recipe: Recipe, learners: Sequence[str], text_guard: bool) -> None:
    """Raise a `WingsError` if `kl_to_base` would have no effect on this model.

    Args:
        recipe: recipe of the run.
        learners: learners of the model.
        text_guard: whether the model has a text guard.
    """
    lora = recipe.lora
    if recipe.kl_to_base is None or recipe.text_turns is not None:
        return
    if lora is not None and not (lora.guard or lora.gate):
        return
    if text_guard or "text" not in learners:
        why = "under text_guard" if text_guard else "without a text learner"
        raise WingsError(
            f"kl_to_base: has no effect: {why}, text logits already equal the LLM's; add"
            " text_turns, whose answers follow images, or remove the key."
        )


def _validate_learning_rates(recipe: Recipe) -> None:
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
        elif not 0 < rate <= _LARGEST_RATE:
            why = f"{rate} must be larger than 0 and at most {_LARGEST_RATE:g}"
        if why:
            raise WingsError(f"learning_rates.{group}: {why}.")


def _validate_evaluate(recipe: Recipe) -> None:
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
