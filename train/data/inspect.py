"""Inspects records: reads, decodes and tokenises each, and counts what a source holds."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from wings.errors import WingsError
from wings.processing.audio_processor import WingsAudioProcessor
from wings.processing.audio_reader import MissingAudio, load_audio
from wings.processing.image_limits import ImageLimits
from wings.processing.image_reader import MissingImage, load_image
from wings.processing.item_encoder import AUDIO
from wings.processing.processor import WingsProcessor
from wings.processing.video_parts import VIDEO
from wings.processing.video_reader import MissingVideo
from wings.records.formats import Message, TurnsError, sense_of
from wings.records.records import SourceError, naming
from wings.sense import IMAGE, VALUES

from .dataset import ConversationDataset
from .text_turns import first_exchange

# Kinds of problems of a record.
MISSING, BROKEN, MISSING_SOUND, BROKEN_SOUND, LACKING, TURNS, LONG, OTHER = KINDS = (
    "missing images",
    "broken images",
    "missing sounds",
    "broken sounds",
    "no such sense",
    "unbalanced turns",
    "too long",
    "other bad records",
)
_SENTENCES = 5


@dataclass(frozen=True)
class RecordReport:
    """Properties of one record.

    Attributes:
        number: record number over all sources.
        images: number of images, frames of videos among them.
        tokens: tokens of the whole conversation, with the features of its images and sounds; 0 for
            a bad record.
        trained: trained tokens.
        is_cut: `max_length` drops its oldest turns.
        is_blinded: images or sounds are dropped with them.
        has_text_turn: a text turn is appended.
        is_without: a text turn was drawn but does not fit in `max_length`.
        problem: one of `KINDS` and a sentence, or None for a good record.
        seconds: length of each sound.
        stretches: number of stretches of each sound.
    """

    number: int
    images: int = 0
    tokens: int = 0
    trained: int = 0
    is_cut: bool = False
    is_blinded: bool = False
    has_text_turn: bool = False
    is_without: bool = False
    problem: tuple[str, str] | None = None
    seconds: tuple[float, ...] = ()
    stretches: tuple[int, ...] = ()


@dataclass
class SourceSurvey:
    """Sums of the `RecordReport`s of one source.

    Attributes:
        key: key of the source in the recipe, such as `data.0`.
        path: path in the recipe, with split and subset.
        records: number of records.
        samples: samples per epoch; None for a source that is not trained on by itself.
        read: records that were read.
        images, sounds: number of records per number of images, and per number of sounds.
        seconds: length of each sound of the good records.
        stretches: number of sounds per number of stretches.
        tokens: tokens of each good record.
        trained, cut, blinded, text_turns, without: sums over the good records.
        problems: bad records per kind.
        sentences: the first few sentences per kind.
    """

    key: str
    path: Path
    records: int
    samples: int | None
    read: int = 0
    images: Counter[int] = field(default_factory=Counter)
    sounds: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    stretches: Counter[int] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)
    trained: int = 0
    cut: int = 0
    blinded: int = 0
    text_turns: int = 0
    without: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, list[str]] = field(default_factory=dict)

    def add(self, report: RecordReport) -> None:
        """Add one record."""
        self.read += 1
        if report.problem is not None:
            kind, sentence = report.problem
            self.problems[kind] += 1
            if len(self.sentences.setdefault(kind, [])) < _SENTENCES:
                self.sentences[kind].append(sentence)
            return
        self.images[report.images] += 1
        self.sounds[len(report.seconds)] += 1
        self.seconds += report.seconds
        self.stretches.update(report.stretches)
        self.tokens.append(report.tokens)
        self.trained += report.trained
        self.cut += report.is_cut
        self.blinded += report.is_blinded
        self.text_turns += report.has_text_turn
        self.without += report.is_without


class SurveyDataset(Dataset):
    """Item `n` is the `RecordReport` of record `numbers[n]`.

    Args:
        data: records with a processor.
        max_length: tokens of the longest sample.
        are_exchanges: only the first exchange of each record is used, and none has an image.
    """

    def __init__(
        self, data: ConversationDataset, max_length: int, are_exchanges: bool = False
    ) -> None:
        assert data.processor is not None
        self.data, self.processor = data, data.processor
        self.max_length, self.are_exchanges = max_length, are_exchanges
        self.numbers: Sequence[int] = range(len(data))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: int) -> RecordReport:
        number = self.numbers[item]
        try:
            messages, text_turn = self.data.messages(number)
        except SourceError as error:
            raise WingsError(str(error)) from None
        except WingsError as error:
            kind = TURNS if isinstance(error.__cause__, TurnsError) else OTHER
            return RecordReport(number, problem=(kind, str(error)))
        try:
            with naming(lambda: self.data.name(number)):
                messages = first_exchange(messages) if self.are_exchanges else messages
                return self._report(number, messages, text_turn)
        except WingsError as error:
            kind = error.__cause__.kind if isinstance(error.__cause__, _Problem) else OTHER
            return RecordReport(number, problem=(kind, str(error)))

    def _report(
        self, number: int, messages: list[Message], text_turn: list[Message]
    ) -> RecordReport:
        processor = self.processor
        for part in _items(messages):
            _validate_sense(part["type"], processor)
        messages = self._with_frames(messages)
        items = _items(messages)
        images = [part for part in items if part["type"] == IMAGE]
        for part in images:
            part[IMAGE] = _decode(part[IMAGE], self.data.limits)
        sounds = [part for part in items if part["type"] == AUDIO]
        for part in sounds:
            part[AUDIO] = _load(part[AUDIO], processor.senses[AUDIO].processor)
        seconds = tuple(len(part[AUDIO][0]) / part[AUDIO][1] for part in sounds)
        sample = processor.encode([*messages, *text_turn])
        is_without = bool(text_turn) and len(sample["input_ids"]) > self.max_length
        if is_without:
            # As in training.
            sample = processor.encode(messages)
        tokens = len(sample["input_ids"])
        is_cut = tokens > self.max_length
        if is_cut:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    sample = processor.encode(messages, max_length=self.max_length)
            except WingsError as error:
                raise _Problem(LONG, str(error)) from None
        trained = int((sample["labels"][1:] != -100).sum())
        if not trained:
            raise WingsError("no token of it is trained")
        stretches = tuple(processor.senses[AUDIO].estimate(part[AUDIO]) for part in sounds)
        kept = sum(len(values) for name, values in sample.items() if VALUES.fullmatch(name))
        has_text_turn = bool(text_turn) and not is_without
        return RecordReport(
            number, len(images), tokens, trained, is_cut, kept < len(images) + sum(stretches),
            has_text_turn, is_without, seconds=seconds, stretches=stretches,
        )  # fmt: skip

    def _with_frames(self, messages: list[Message]) -> list[Message]:
        """The messages with time stamps and images in place of videos."""
        self.processor.image_processor.limits = self.data.limits
        try:
            return self.processor.video_input.in_messages([messages])[0]
        except MissingVideo as error:
            raise _Problem(MISSING, str(error)) from error
        except WingsError as error:
            raise _Problem(BROKEN, str(error)) from None


class _Problem(WingsError):
    """A problem with its kind."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def _items(messages: list[Message]) -> list[Message]:
    return [part for one in messages for part in one["content"] if part["type"] != "text"]


def _decode(source: Path | bytes | str, limits: ImageLimits | None = None) -> object:
    try:
        return load_image(source, limits)
    except MissingImage as error:
        raise _Problem(MISSING, f"there is no image file {os.fsdecode(source)}") from error
    except WingsError as error:
        raise _Problem(BROKEN, str(error)) from None


def _load(source: Any, processor: WingsAudioProcessor) -> tuple[np.ndarray, int]:
    """The samples of a sound and their rate, as the model's processor reads them."""
    try:
        return load_audio(source, processor.rate, processor.limits), processor.rate
    except MissingAudio as error:
        raise _Problem(MISSING_SOUND, f"there is no sound file {os.fsdecode(source)}") from error
    except WingsError as error:
        raise _Problem(BROKEN_SOUND, str(error)) from None


def _validate_sense(kind: str, processor: WingsProcessor) -> None:
    """Raises a `_Problem` for an image, a sound or a video that the model takes none of."""
    if sense_of(kind) not in processor.senses:
        noun = {IMAGE: "an image", AUDIO: "a sound", VIDEO: "a video"}[kind]
        verb = "hear" if kind == AUDIO else "see"
        raise _Problem(LACKING, f"it has {noun}, and the recipe's model does not {verb}")


def quantiles(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Quantiles of the values at these shares; each is one of the values."""
    return [float(one) for one in np.quantile(values, shares, method="inverted_cdf")]
