"""The parts of a recipe: its data, its model, and what a run may add to them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from wings.processing.item_encoder import AUDIO
from wings.records.record_source import PathKind, RecordSource
from wings.sense import IMAGE


@dataclass
class DataSource(RecordSource):
    """One entry of `data`: a file, several files, or a dataset.

    Attributes:
        weight (passes): passes over the records per epoch; 0.1 takes a fresh tenth in every epoch.
        share: instead of a weight, the share of an epoch's samples: 0.1 for 10 percent.
    """

    weight: float = 1.0
    share: float | None = None


@dataclass
class TextTurns:
    """Appends a text exchange to conversations with images or sounds.

    The hardest case for a learner is text after an image: it sees the image, but the LLM should
    answer alone. Data whose questions all ask about the image never contain that case.

    Attributes:
        path: text conversations, as `path` of `data`; the first question and answer of each.
        share: probability that a conversation with items gets one; 0.5 for half of them. The draw
            depends on `seed` and the record's number. A conversation gets none if it would then
            exceed `max_length` and lose turns.
    """

    path: Annotated[str, PathKind.RECORDS]
    share: float


@dataclass
class ModelNames:
    """Parts of a fresh model: a Hugging Face decoder LLM, and an encoder of each sense.

    Attributes:
        vision: of images: an open_clip or timm name, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, or a
            mapping of the tower's options with `model_name`.
        text: a Hub id or a folder of a decoder LLM, or a GGUF file in either.
        audio: of sounds: a Hub id or a folder of an audio encoder of transformers, or a mapping of
            its options with `model_name`, such as `seconds` and `pool`.
    """

    vision: Annotated[str | dict[str, Any] | None, PathKind.TOWER] = None
    text: Annotated[str | None, PathKind.MODEL] = None
    audio: Annotated[str | dict[str, Any] | None, PathKind.MODEL] = None

    @property
    def encoders(self) -> dict[str, str | dict[str, Any]]:
        """The encoders by sense."""
        named = {IMAGE: self.vision, AUDIO: self.audio}
        return {sense: source for sense, source in named.items() if source is not None}

    def __str__(self) -> str:
        unnamed = {IMAGE: "a configured vision tower", AUDIO: "a configured audio encoder"}
        encoders = [
            source if isinstance(source, str) else unnamed[sense]
            for sense, source in self.encoders.items()
        ]
        *first, last = [*([self.text] if self.text else []), *encoders]
        return f"{', '.join(first)} and {last}" if first else last


@dataclass
class HeldOutSource(DataSource):
    """Records that are evaluated during training and never trained on.

    Attributes:
        name: names the metric `eval/NAME/loss`; entries with one name form one set.
    """

    name: str = field(kw_only=True)


def text_after(sense: str) -> str:
    """The name of the held-out set that is made of text records after items of a sense."""
    return f"text_after_{sense}"


AFTER_ITEMS = tuple(text_after(sense) for sense in (IMAGE, AUDIO))


@dataclass
class EarlyStop:
    """Ends the run when a held-out loss rises too far.

    Attributes:
        name: name of a held-out set, or `text_after_image` or `text_after_audio`.
        rise (nats per token): largest allowed increase of its loss since the start.
    """

    name: str
    rise: float


# Of `evaluate.stop: true`, in nats per token.
DEFAULT_RISE = 1.0


@dataclass
class Evaluate:
    """Figures of held-out records at the start, during training and at the end.

    Attributes:
        data: the records, each entry with a name.
        every (steps): steps between evaluations; default: a fifth of the run, at most 500.
        text_after_image (records): number of text records that are put after images, scored on the
            answer to the text; 0 for none. Sounds in the data have a set too, `text_after_audio`.
            With a frozen LLM its KL from the LLM, which reads the
            exchange in words, is measured too. Texts are up to a fifth of `text_turns`, which are
            then not trained on, or else of `data` here, or else of the training data; images are of
            `data` here, or else of the training data.
        answers (questions): number of fixed questions of each kind (an image, a text, a text after
            an image, the same of sounds) that the model answers at every evaluation; 0 for none.
        stop: early stopping. `true` ends stage instruct when the loss on text after an image (or a
            sound, without images) rises by 1 nat per token; `false` never ends a run.
        best: a logged figure such as `eval/text/loss`, or the name of a held-out set for its loss.
            The checkpoint of the evaluation with its lowest value is kept besides the last ones.
        load_best: the finished model has the weights of that checkpoint, not the last ones.
    """

    data: list[HeldOutSource] = field(default_factory=list)
    every: int | None = None
    text_after_image: int = 16
    answers: int = 2
    stop: EarlyStop | bool = True
    best: str | None = None
    load_best: bool = False

    def interval(self, steps: int) -> int:
        """Steps between evaluations of a run of `steps`."""
        return self.every or max(1, min(500, steps // 5))

    @property
    def best_figure(self) -> str | None:
        """Logged name of the figure that `best` names."""
        is_set = self.best is not None and "/" not in self.best
        return f"eval/{self.best}/loss" if is_set else self.best


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
        stages: `instruct`, or `both` for adapters that both stages train. Then the recipes of both
            stages need this key.
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
        """True if the checkpoint keeps the adapters, unmerged."""
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
