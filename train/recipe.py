"""The recipe of one training run: read from YAML, checked, kept beside the result."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from wings.errors import WingsError
from wings.train.overrides import override
from wings.train.strict import fill

from .validation import RATES, check

# Keys that change how a run is carried out, not what comes out of it: they may differ when a run is
# continued.
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
class Source:
    """Training records: a file, several files as one, or a dataset.

    Attributes:
        path: a `.json` (LLaVA's list), `.jsonl`, `.parquet` or `.tar` (WebDataset's shards) file;
            a folder, a pattern (`parts/*.jsonl`) or a range (`shards-{000..012}.tar`) of such; a
            folder from `save_to_disk`; with `split`, a dataset's name on the Hub or its folder.
        images: folder that image paths are relative to; by default the one of `path`.
        weight: passes over the records in one epoch; 0.1 takes a fresh tenth in every epoch.
        share: in place of a weight, the share of an epoch's samples: 0.1 for 10 percent.
        limit: only the first so many records.
        split: read with Hugging Face's `datasets`, this split of it (memory-mapped: any size).
        subset: which of the dataset's configurations.
        stream: read it while training, with nothing kept on the disk; each process that reads
            data (workers times GPUs) reads the whole stream.
        window: records of a stream that are shuffled together, and kept in memory.
    """

    path: str
    images: str | None = None
    weight: float = 1.0
    share: float | None = None
    limit: int | None = None
    split: str | None = None
    subset: str | None = None
    stream: bool = False
    window: int = 1000


@dataclass
class TextTurns:
    """Text behind pictures: one exchange from a file of text after the last turn of a conversation.

    A learner's hardest place is text after a picture: it sees the picture and must leave the answer
    to the LLM. Data in which all that follows a picture asks about it never shows such a place.

    Attributes:
        path: records of text conversations, as a source's `path`; of each the first question and
            answer count.
        share: of the conversations with pictures, how many get one: 0.5 for each with a chance of
            one half. Which ones, and what they get, depends on `seed` and the record's number. One
            that `max_length` would cost its oldest turns, and its picture with them, gets none.
    """

    path: str
    share: float


@dataclass
class Names:
    """What a fresh start is made of: an open_clip vision tower and a Hugging Face decoder LLM."""

    vision: str | dict[str, Any]
    text: str

    def __str__(self) -> str:
        vision = self.vision if isinstance(self.vision, str) else "a vision tower of its own"
        return f"{self.text} and {vision}"


@dataclass
class HeldOut(Source):
    """A file of records that are asked about while training and never trained on.

    Attributes:
        name: what its loss is called, `eval/NAME/loss`; files of one name are one set.
    """

    name: str = field(kw_only=True)


@dataclass
class Stop:
    """When forgetting has gone too far.

    Attributes:
        name: of a held-out set. (YAML reads a bare `on` as true.)
        rise: the run ends when that loss lies more than this above what it was at the start, in
            nats a token.
    """

    name: str
    rise: float


@dataclass
class Evaluate:
    """Losses on held-out records: at the start, while training, at the end.

    Attributes:
        data: the files, each with a name.
        every: steps between two evaluations.
        stop: end the run early; by default it is only shown.
    """

    data: list[HeldOut]
    every: int = 500
    stop: Stop | None = None


@dataclass
class Lora:
    """Low-rank adapters on the language model, which itself stays frozen (peft's LoRA).

    Attributes:
        rank, alpha: of the adapters; what they add is scaled by alpha / rank.
        dropout: on the adapters' input.
        targets: names of the layers that get one, such as `q_proj`; by default all linear layers of
            all blocks.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] | None = None


@dataclass
class KLToBase:
    """Answers to text are held to what the frozen language model itself would say.

    Adds `weight` times KL(LLM || model) to the loss: a mean over the retained tokens of the whole
    global batch. Retained are the answers of conversations without any picture, and those that
    `text_turns` adds behind pictures, for which the language model is asked without the pictures.
    Other questions after a picture are not: the language model would answer them blindly. It costs
    a forward of the language model on what is retained, and no second model in memory.

    Attributes:
        weight: of the KL in nats a token; the loss beside it is in nats a token too.
    """

    weight: float


@dataclass
class Recipe:
    """One run of one stage. `from_yaml` reads it; every value is checked where it is set.

    Attributes:
        stage: `align` trains projector and visual learners beside a frozen LLM; `instruct` trains
            everything.
        output: folder of the result; relative paths are relative to the working directory.
        data: the training files, mixed.
        text_turns: exchanges of text that are put behind conversations with pictures.
        model: names for a fresh start. Either this or `start`.
        start: a Wings checkpoint to go on from (stage 1's output for stage 2).
        wings: options of `WingsConfig`: rank, router, learners, prefix, text_guard, ...
        freeze_llm: keep the LLM as it is. Always true in `align`; false by default in `instruct`.
        lora: adapters on the frozen LLM in stage `instruct`; the finished model holds them merged.
        kl_to_base: hold answers to text to those of the LLM, which must be frozen.
        learning_rates: learning rate per parameter group; what is left out takes the paper's.
        max_length: tokens (image features included) of the longest sample; older turns are dropped
            to fit.
        on_bad_record: `stop` with a sentence, or `skip`: take the next good record instead, and
            count.
        epochs, steps: length of the run; `steps` wins if given.
        batch_size: samples per optimiser step over all processes and accumulation.
        batching: `pad` puts a sample in each row. `group` does too, and makes batches of samples of
            like length, pictures and text apart. `pack` lays samples end to end in rows of up to
            `max_length` tokens and gives every step about as many tokens.
        device_batch_size: samples per forward of one process; the rest is accumulated. Default: no
            accumulation.
        warmup_ratio: share of the steps with a rising rate; a cosine to zero follows.
        parallel: how torchrun's processes share a run: `ddp` (each holds the model whole) or `fsdp`
            (weights, gradients and optimiser are sharded).
        workers: processes that read and decode data, per training process.
        save_every: steps between checkpoints to resume from, of which the last `save_total_limit`
            stay; none by default.
        evaluate: held-out records whose loss is watched while training.
        trackers: where figures are sent, by the names that transformers' `Trainer` has for them
            (tensorboard, wandb, mlflow, ...); [] for nowhere. Default: tensorboard where installed.
    """

    stage: Literal["align", "instruct"]
    output: str
    data: list[Source]
    text_turns: TextTurns | None = None
    model: Names | None = None
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
        # YAML has no tuples: one spelling, so that a recipe read back compares equal.
        self.wings = {k: list(v) if isinstance(v, tuple) else v for k, v in self.wings.items()}
        check(self)

    def learning_rate(self, group: str) -> float:
        """Learning rate of a parameter group: the recipe's, else the paper's for this stage."""
        return self.learning_rates.get(group, RATES[self.stage][group])

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe file; `overrides` are `dotted.key=value` with YAML values.

        Raises:
            WingsError: names the file, the key path, and the nearest known name.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise WingsError(f"{path}: no such recipe file.")
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
        """The recipe in a plain mapping, as `to_dict` gives it; `where` is named in errors."""
        try:
            return fill(cls, values, where)
        except WingsError as error:
            text = str(error)
            raise (error if text.startswith(where) else WingsError(f"{where}: {text}")) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping with every default written out."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The recipe with every default written out, readable by `from_yaml`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def difference(self, other: "Recipe") -> str | None:
        """The first key that makes `other` another run, as `key 1 (here 2)`, or None."""
        mine, theirs = self.to_dict(), other.to_dict()
        for key in mine:
            if key not in OPERATIONAL and mine[key] != theirs[key]:
                return f"{key} {theirs[key]!r} (now {mine[key]!r})"
        return None
