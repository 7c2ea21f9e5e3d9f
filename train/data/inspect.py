"""Surveys the data of a recipe: reads, decodes and tokenises every record."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from wings.errors import WingsError
from wings.processing.image_limits import ImageLimits
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.image_reader import MissingImage, load_image
from wings.processing.processor import WingsProcessor
from wings.records.formats import Message, TurnsError
from wings.records.records import SourceError, locate, naming
from wings.train.recipe import Recipe

from .dataset import ConversationDataset
from .workers import reporting_lost_workers, unwrapping_worker_errors

# Kinds of problems of a record.
MISSING, BROKEN, TURNS, LONG, OTHER = KINDS = (
    "missing images",
    "broken images",
    "unbalanced turns",
    "too long",
    "other bad records",
)
SAMPLES = 3
_SENTENCES = 5
_BATCH = 16


@dataclass(frozen=True)
class RecordReport:
    """Properties of one record.

    Attributes:
        number: record number over all sources.
        images: number of images.
        tokens: tokens of the whole conversation, image features included; 0 for a bad record.
        trained: trained tokens.
        is_cut: `max_length` drops its oldest turns.
        is_blinded: images are dropped with them.
        has_text_turn: a text turn is appended.
        is_without: a text turn was drawn but does not fit in `max_length`.
        problem: one of `KINDS` and a sentence, or None for a good record.
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


@dataclass
class SourceSurvey:
    """Sums of the `RecordReport`s of one source.

    Attributes:
        path: path in the recipe, with split and subset.
        records: number of records.
        samples: samples per epoch.
        read: records that were read.
        images: number of records per number of images.
        tokens: tokens of each good record.
        trained, cut, blinded, text_turns, without: sums over the good records.
        problems: bad records per kind.
        sentences: the first few sentences per kind.
    """

    path: Path
    records: int
    samples: int
    read: int = 0
    images: Counter[int] = field(default_factory=Counter)
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
        self.tokens.append(report.tokens)
        self.trained += report.trained
        self.cut += report.is_cut
        self.blinded += report.is_blinded
        self.text_turns += report.has_text_turn
        self.without += report.is_without


class SurveyDataset(Dataset):
    """Item `n` is the `RecordReport` of record `numbers[n]`.

    Images are decoded and then resized to one pixel: preparing them for a vision tower would take
    longest and cannot fail.
    """

    def __init__(self, recipe: Recipe, processor: WingsProcessor) -> None:
        self.processor = WingsProcessor(
            WingsImageProcessor(image_size=1), processor.tokenizer, processor.image_seq_length
        )
        self.data = ConversationDataset.of(recipe, self.processor)
        self.max_length = recipe.max_length
        self.numbers: Sequence[int] = range(len(self.data))

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
                return self._report(number, messages, text_turn)
        except WingsError as error:
            kind = error.__cause__.kind if isinstance(error.__cause__, _Problem) else OTHER
            return RecordReport(number, problem=(kind, str(error)))

    def _report(
        self, number: int, messages: list[Message], text_turn: list[Message]
    ) -> RecordReport:
        images = [part for one in messages for part in one["content"] if part["type"] == "image"]
        for part in images:
            part["image"] = _decode(part["image"], self.data.limits)
        processor = self.processor
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
        kept = len(sample["pixel_values"]) if "pixel_values" in sample else 0
        has_text_turn = bool(text_turn) and not is_without
        return RecordReport(
            number, len(images), tokens, trained, is_cut, kept < len(images),
            has_text_turn, is_without,
        )  # fmt: skip


class _Problem(WingsError):
    """A problem with its kind."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def _decode(source: Path | bytes | str, limits: ImageLimits | None = None) -> object:
    try:
        return load_image(source, limits)
    except MissingImage as error:
        raise _Problem(MISSING, f"there is no image file {os.fsdecode(source)}") from error
    except WingsError as error:
        raise _Problem(BROKEN, str(error)) from None


def survey(
    recipe: Recipe,
    processor: WingsProcessor,
    quick: int | None = None,
    workers: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[SourceSurvey], list[int]]:
    """Reads the records of a recipe.

    Args:
        recipe: recipe with the data.
        processor: processor of the model.
        quick: read only this many random records of each source (the first ones of a stream).
        workers: reading processes; default: one per core.
        watch: called with (records read, records to read).

    Returns:
        a survey of each source, and the numbers of up to three good records with different sources
        and with and without images.

    Raises:
        WingsError: a source cannot be opened, a stream fails, or a worker is lost.
    """
    dataset = SurveyDataset(recipe, processor)
    data = dataset.data
    counts = data.sampler(recipe.batch_size, recipe.seed).counts
    surveys = [
        SourceSurvey(records.path, length, samples)
        for records, length, samples in zip(data.records, data.lengths, counts, strict=True)
    ]
    if quick is not None:
        dataset.numbers = _drawn(data, quick)
    total = len(dataset)
    cores = len(os.sched_getaffinity(0)) if workers is None else workers
    loader = DataLoader(
        dataset,
        batch_size=_BATCH,
        # A process for less than one batch does not pay.
        num_workers=min(cores, total // _BATCH),
        collate_fn=list,
    )
    good: dict[tuple[int, bool], list[int]] = {}
    done = 0
    with reporting_lost_workers(), unwrapping_worker_errors(loader.num_workers):
        for reports in loader:
            for report in reports:
                source = locate(report.number, data.starts)[0]
                surveys[source].add(report)
                group = good.setdefault((source, report.images > 0), [])
                if report.problem is None and len(group) < SAMPLES:
                    group.append(report.number)
            done += len(reports)
            if watch is not None:
                watch(done, total)
    return surveys, _some(list(good.values()))


def _drawn(data: ConversationDataset, quick: int) -> list[int]:
    numbers: list[int] = []
    for records, start, length in zip(data.records, data.starts, data.lengths, strict=False):
        chosen = np.arange(min(quick, length))
        if records.shuffle_buffer is None:
            # Random, because files may alternate between kinds.
            chosen = np.sort(np.random.default_rng(0).choice(length, len(chosen), replace=False))
        numbers += (start + chosen).tolist()
    return numbers


def _some(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, up to `SAMPLES`."""
    turns = [group[n] for n in range(SAMPLES) for group in groups if n < len(group)]
    return turns[:SAMPLES]


def quantiles(values: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Quantiles of the values at these shares."""
    return [int(one) for one in np.quantile(values, shares, method="inverted_cdf")]
