"""The recipe of one training run: read from YAML, checked, kept beside the result."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from wings.errors import WingsError
from wings.train.checks import RATES, check
from wings.train.overrides import override
from wings.train.strict import fill

# Keys that change how a run is carried out, not what comes out of it: they may differ when a run is
# continued.
OPERATIONAL = (
    "output",
    "device_batch_size",
    "workers",
    "log_every",
    "save_every",
    "keep",
    "gradient_checkpointing",
    "parallel",
)


@dataclass
class Source:
    """One file of training records.

    Attributes:
        path: `.json` (LLaVA's list), `.jsonl` or `.parquet`.
        images: folder that image paths are relative to; by default the file's own.
        weight: passes over the file in one epoch; 0.1 takes a fresh tenth in every epoch.
        limit: only the first so many records.
    """

    path: str
    images: str | None = None
    weight: float = 1.0
    limit: int | None = None


@dataclass
class Names:
    """What a fresh start is made of: an open_clip vision tower and a Hugging Face decoder LLM."""

    vision: str | dict[str, Any]
    text: str

    def __str__(self) -> str:
        vision = self.vision if isinstance(self.vision, str) else "a vision tower of its own"
        return f"{self.text} and {vision}"


@dataclass
class Recipe:
    """One run of one stage. `from_yaml` reads it; every value is checked where it is set.

    Attributes:
        stage: `align` trains projector and visual learners beside a frozen LLM; `instruct` trains
            everything.
        output: folder of the result; relative paths are relative to the working directory.
        data: the training files, mixed.
        model: names for a fresh start. Either this or `start`.
        start: a Wings checkpoint to go on from (stage 1's output for stage 2).
        wings: options of `WingsConfig`: rank, router, learners, text_guard, ...
        freeze_llm: keep the LLM as it is. Always true in `align`; false by default in `instruct`.
        rates: learning rate per parameter group; what is left out takes the paper's.
        max_length: tokens (image features included) of the longest sample; older turns are dropped
            to fit.
        on_bad_record: `stop` with a sentence, or `skip`: take the next good record instead, and
            count.
        epochs, steps: length of the run; `steps` wins if given.
        batch_size: samples per optimiser step over all processes and accumulation.
        device_batch_size: samples per forward of one process; the rest is accumulated. Default: no
            accumulation.
        warmup: share of the steps with a rising rate; a cosine to zero follows.
        parallel: how torchrun's processes share a run: `ddp` (each holds the model whole) or `fsdp`
            (weights, gradients and optimiser are sharded).
        workers: processes that read and decode data, per training process.
        save_every: steps between checkpoints to resume from (`keep` of them stay); none by default.
    """

    stage: Literal["align", "instruct"]
    output: str
    data: list[Source]
    model: Names | None = None
    start: str | None = None
    wings: dict[str, Any] = field(default_factory=dict)
    freeze_llm: bool | None = None
    rates: dict[str, float] = field(default_factory=dict)
    max_length: int = 2048
    on_bad_record: Literal["stop", "skip"] = "stop"
    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 32
    device_batch_size: int | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    workers: int = 0
    log_every: int = 10
    save_every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if self.freeze_llm is None:
            self.freeze_llm = self.stage == "align"
        # YAML has no tuples: one spelling, so that a recipe read back compares equal.
        self.wings = {k: list(v) if isinstance(v, tuple) else v for k, v in self.wings.items()}
        check(self)

    def rate(self, group: str) -> float:
        """Learning rate of a parameter group: the recipe's, else the paper's for this stage."""
        return self.rates.get(group, RATES[self.stage][group])

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
