"""A survey of the data of a recipe: every record read, decoded, tokenised, and what was found."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from wings.errors import WingsError
from wings.processing.image_processor import WingsImageProcessor, load_image
from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe

from .dataset import ConversationDataset
from .formats import Message, TurnsError
from .readers.records import SourceError
from .workers import reporting_lost_workers, unwrapping_worker_errors

# What can be wrong with a record, as a person would say it.
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
    """What one record is.

    Attributes:
        number: in the common numbering of all sources.
        images: how many it has.
        tokens: of the whole conversation, image features included; 0 for a bad record.
        trained: tokens that are learned.
        is_cut: whether `max_length` costs it its oldest turns.
        is_blinded: whether pictures go with them.
        has_text_turn: whether an exchange of text is put behind it.
        is_without: whether it would have one, but `max_length` has no room for it.
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
    """What was found in one source.

    Attributes:
        path: its path in the recipe, with split and subset.
        records: how many it has.
        samples: how many of an epoch's samples it gives.
        read: records that were looked at.
        images: how many records have how many images.
        tokens: lengths of the good records, one each.
        trained: tokens that are learned, over all good records.
        cut: records that `max_length` costs their oldest turns.
        blinded: those of them that lose pictures with these turns.
        text_turns: records that have an exchange of text behind them.
        without: records that would have one, but `max_length` has no room for it.
        problems: records per kind.
        sentences: the first few per kind.
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

    def add(self, finding: RecordReport) -> None:
        """Take in one record."""
        self.read += 1
        if finding.problem is not None:
            kind, sentence = finding.problem
            self.problems[kind] += 1
            if len(self.sentences.setdefault(kind, [])) < _SENTENCES:
                self.sentences[kind].append(sentence)
            return
        self.images[finding.images] += 1
        self.tokens.append(finding.tokens)
        self.trained += finding.trained
        self.cut += finding.is_cut
        self.blinded += finding.is_blinded
        self.text_turns += finding.has_text_turn
        self.without += finding.is_without


class SurveyDataset(Dataset):
    """Item `n` is the `RecordReport` of record `numbers[n]`.

    Pictures are decoded whole and then made tiny: what a vision tower would be shown takes longer
    to make than the rest, and cannot go wrong.
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
            own, added = self.data.messages(number)
        except SourceError as error:
            raise WingsError(str(error)) from None
        except WingsError as error:
            kind = TURNS if isinstance(error.__cause__, TurnsError) else OTHER
            return RecordReport(number, problem=(kind, str(error)))
        try:
            return self._examine(number, own, added)
        except WingsError as error:
            kind = error.kind if isinstance(error, _Problem) else OTHER
            return RecordReport(number, problem=(kind, f"{self.data.name(number)}: {error}"))

    def _examine(self, number: int, own: list[Message], added: list[Message]) -> RecordReport:
        images = [part for one in own for part in one["content"] if part["type"] == "image"]
        for part in images:
            part["image"] = _decode(part["image"])
        processor = self.processor
        sample = processor.encode([*own, *added])
        is_without = bool(added) and len(sample["input_ids"]) > self.max_length
        if is_without:
            # As in training.
            sample = processor.encode(own)
        tokens = len(sample["input_ids"])
        is_cut = tokens > self.max_length
        if is_cut:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    sample = processor.encode(own, max_length=self.max_length)
            except WingsError as error:
                raise _Problem(LONG, str(error)) from None
        trained = int((sample["labels"][1:] != -100).sum())
        if not trained:
            raise WingsError("no token of it is trained")
        kept = len(sample["pixel_values"]) if "pixel_values" in sample else 0
        has_text_turn = bool(added) and not is_without
        return RecordReport(
            number, len(images), tokens, trained, is_cut, kept < len(images),
            has_text_turn, is_without,
        )  # fmt: skip


class _Problem(WingsError):
    """A sentence with its kind."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def _decode(source: Path | bytes) -> object:
    if isinstance(source, Path) and not source.is_file():
        raise _Problem(MISSING, f"there is no image file {source}")
    try:
        return load_image(source)
    except WingsError as error:
        raise _Problem(BROKEN, str(error)) from None


def survey(
    recipe: Recipe,
    processor: WingsProcessor,
    quick: int | None = None,
    workers: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[SourceSurvey], list[int]]:
    """Looks at the records of a recipe.

    Args:
        recipe: its data and `max_length` are looked at.
        processor: of the model to be; its weights are not needed.
        quick: only so many records of each source, drawn at random (the first ones of a stream).
        workers: processes that read; by default one per core.
        watch: called with (records looked at, records to look at).

    Returns:
        what was found in each source, and the numbers of up to three good records that differ in
        source and in having images.

    Raises:
        WingsError: a source that cannot be opened, a stream that breaks off, or a lost worker.
    """
    examination = SurveyDataset(recipe, processor)
    data = examination.data
    counts = data.sampler(recipe.batch_size, recipe.seed).counts
    found = [
        SourceSurvey(records.path, length, samples)
        for records, length, samples in zip(data.records, data.lengths, counts, strict=True)
    ]
    if quick is not None:
        examination.numbers = _drawn(data, quick)
    total = len(examination)
    cores = len(os.sched_getaffinity(0)) if workers is None else workers
    loader = DataLoader(
        examination,
        batch_size=_BATCH,
        # A process for less than a batch costs more than it saves.
        num_workers=min(cores, total // _BATCH),
        collate_fn=list,
    )
    good: dict[tuple[int, bool], list[int]] = {}
    done = 0
    with reporting_lost_workers(), unwrapping_worker_errors(loader.num_workers):
        for findings in loader:
            for finding in findings:
                source = data.source_of(finding.number)
                found[source].add(finding)
                group = good.setdefault((source, finding.images > 0), [])
                if finding.problem is None and len(group) < SAMPLES:
                    group.append(finding.number)
            done += len(findings)
            if watch is not None:
                watch(done, total)
    return found, _some(list(good.values()))


def _drawn(data: ConversationDataset, quick: int) -> list[int]:
    numbers: list[int] = []
    for records, start, length in zip(data.records, data.starts, data.lengths, strict=False):
        chosen = np.arange(min(quick, length))
        if records.shuffle_buffer is None:
            # Every so many records would see one kind only, where kinds take turns in a file.
            chosen = np.sort(np.random.default_rng(0).choice(length, len(chosen), replace=False))
        numbers += (start + chosen).tolist()
    return numbers


def _some(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, until there are enough."""
    turns = [group[n] for n in range(SAMPLES) for group in groups if n < len(group)]
    return turns[:SAMPLES]


def quantiles(values: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The values below which these shares of all lie."""
    return [int(one) for one in np.quantile(values, shares, method="inverted_cdf")]
