"""Surveys all data of a recipe: its records, its text turns and its held-out records."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader

from wings.errors import WingsError
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.processor import WingsProcessor
from wings.records.records import locate
from wings.train.recipe import DataSource, Recipe
from wings.upstream.loader import batches_of

from .dataset import ConversationDataset, exchanges_of
from .inspect import SourceSurvey, SurveyDataset
from .workers import reporting_lost_workers, unwrapping_worker_errors

TEXT_TURNS = "text_turns"
SAMPLES = 3
_BATCH = 16


@dataclass
class _Part:
    """Records that are read together.

    Attributes:
        data: the records.
        sources: survey of each source.
        dataset: reads them.
        good: numbers of the first good records by source, and with or without images or sounds.
    """

    data: ConversationDataset
    sources: list[SourceSurvey]
    dataset: SurveyDataset
    good: dict[tuple[int, bool], list[int]] = field(default_factory=dict)

    def read(self, workers: int, progress: Callable[[int], None]) -> None:
        """Adds the report of every record to its source."""
        loader = DataLoader(
            self.dataset,
            batch_size=_BATCH,
            # A process for less than one batch does not pay.
            num_workers=min(workers, len(self.dataset) // _BATCH),
            collate_fn=list,
        )
        with (
            reporting_lost_workers(),
            unwrapping_worker_errors(loader.num_workers),
            batches_of(loader) as batches,
        ):
            for reports in batches:
                for report in reports:
                    source = locate(report.number, self.data.starts)[0]
                    self.sources[source].add(report)
                    has_items = bool(report.images or report.seconds)
                    group = self.good.setdefault((source, has_items), [])
                    if report.problem is None and len(group) < SAMPLES:
                        group.append(report.number)
                progress(len(reports))


def survey(
    recipe: Recipe,
    processor: WingsProcessor,
    quick: int | None = None,
    workers: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[SourceSurvey], list[int]]:
    """Reads all records of a recipe: those of `data`, `text_turns` and `evaluate.data`.

    Images are decoded and then resized to one pixel: preparing them for a vision tower would take
    longest and cannot fail. Text turns are appended only if all of them can be used.

    Args:
        recipe: recipe with the data.
        processor: processor of the model.
        quick: read only this many random records of each source (the first ones of a stream).
        workers: reading processes; default: one per core.
        watch: called with (records read, records to read).

    Returns:
        a survey of each source, and the numbers of up to three good records of `data` with
        different sources and with and without images or sounds.

    Raises:
        WingsError: a source cannot be opened, a stream fails, or a worker is lost.
    """
    small = WingsProcessor(
        WingsImageProcessor(image_size=1),
        processor.tokenizer,
        processor.image_seq_length,
        other_senses=processor.other_senses,
    )

    def opened(key: str, sources: Sequence[DataSource], is_list: bool = True) -> _Part:
        try:
            data = ConversationDataset(sources, small, recipe.max_length, limits=recipe.limits)
        except WingsError as error:
            raise WingsError(f"{key}: {error}") from None
        is_trained = key == "data"
        counts = data.sampler(recipe.batch_size, recipe.seed).counts if is_trained else ()
        surveys = [
            SourceSurvey(
                f"{key}.{n}" if is_list else key, records.path, length,
                counts[n] if is_trained else None,
            )
            for n, (records, length) in enumerate(zip(data.records, data.lengths, strict=True))
        ]  # fmt: skip
        # A text turn that does not fit is no bad record; it is not appended.
        most = sys.maxsize if key == TEXT_TURNS else recipe.max_length
        dataset = SurveyDataset(data, most, are_exchanges=key == TEXT_TURNS)
        if quick is not None:
            dataset.numbers = _drawn(data, quick)
        return _Part(data, surveys, dataset)

    trained = opened("data", recipe.data)
    turns, held_out = None, None
    if recipe.text_turns:
        turns = opened(TEXT_TURNS, [DataSource(recipe.text_turns.path)], is_list=False)
    if recipe.evaluate.data:
        held_out = opened("evaluate.data", recipe.evaluate.data)
    parts = [part for part in (turns, trained, held_out) if part]
    total, done = sum(len(part.dataset) for part in parts), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if watch is not None:
            watch(done, total)

    cores = len(os.sched_getaffinity(0)) if workers is None else workers
    for part in parts:
        part.read(cores, advance)
        if part is turns and not part.sources[0].problems:
            trained.data.exchanges = exchanges_of(recipe)
    ordered = [part for part in (trained, turns, held_out) if part]
    return [source for part in ordered for source in part.sources], _some([*trained.good.values()])


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
