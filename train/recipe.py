"""The recipe of a training run: read from YAML, validated, stored with the result."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from wings.errors import WingsError
from wings.train.recipe_file import fill, override

from .validation import RATES, validate_recipe

# Keys that do not change the result of a run. They may differ when a run is resumed.
OPERATIONAL = (
    "output",
    "device_batch_size",
    "workers",
    "log_every",
    "save_every",
    "save_total_limit",
    "gradient_checkpointing",
    "trackers",
    "parallel",
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
    """Parts of a fresh model: an open_clip vision tower and a Hugging Face decoder LLM."""

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
class Lora:
    """Low-rank adapters on the frozen language model (peft's LoRA).

    Attributes:
        rank, alpha: of the adapters; their output is scaled by alpha / rank.
        dropout: on the input of the adapters.
        targets: names of the layers with an adapter, such as `q_proj`; default: all linear layers
            of all blocks.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] | None = None


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
        wings: options of `WingsConfig`: rank, router, learners, prefix, text_guard, ...
        freeze_llm: freeze the LLM. Always true in `align`; false by default in `instruct`.
        lora: adapters on the frozen LLM in stage `instruct`; merged in the finished model.
        kl_to_base: KL that keeps answers to text close to those of the LLM, which must be frozen.
        learning_rates: learning rate per parameter group; default: the paper's.
        max_length: tokens (image features included) of the longest sample; older turns are dropped
            to fit.
        on_bad_record: `stop` with an error, or `skip`: use the next good record instead, and count.
        epochs, steps: length of the run; `steps` overrides `epochs`.
        batch_size: samples per optimiser step over all processes and accumulation.
        batching: `pad` puts one sample in each row. `group` also makes batches of similar lengths,
            with images and text apart. `pack` concatenates samples in rows of up to `max_length`
            tokens and gives every step about as many tokens.
        device_batch_size: samples per forward of one process; the rest is accumulated. Default: no
            accumulation.
        warmup_ratio: share of the steps with linear warmup; a cosine to zero follows.
        parallel: `ddp` (each process holds the whole model) or `fsdp` (weights, gradients and
            optimiser are sharded).
        workers: processes that read and decode data, per training process.
        save_every: steps between checkpoints to resume from, of which the last `save_total_limit`
            stay; none by default.
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
    lora: Lora | None = None
    kl_to_base: KLToBase | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
    max_length: int = 2048
    on_bad_record: Literal["stop", "skip"] = "stop"
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
    evaluate: Evaluate | None = None
    trackers: list[str] | None = None

    def __post_init__(self) -> None:
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
        if not path.is_file():
            raise WingsError(f"{path}: no such recipe file; check the name.")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise WingsError(
                f"{path}: not readable as YAML ({' '.join(str(error).split())})."
            ) from error
        for text in overrides if isinstance(values, dict) else ():
            override(values, text)
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
