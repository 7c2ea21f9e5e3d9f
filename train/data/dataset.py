"""The training data of a recipe as one map-style dataset of encoded conversations."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Dataset

from wings.errors import WingsError
from wings.records.formats import Message, items_of, to_messages
from wings.records.open_records import open_records
from wings.records.records import SourceError, locate, naming
from wings.train.recipe import DataSource, Limits, Recipe

from .collator import with_kl_mask
from .sampler import RecordSampler
from .text_turns import TextExchanges

if TYPE_CHECKING:
    from wings.processing.processor import WingsProcessor

# This many unusable records in a row mean a wrong folder, not broken files: the run stops.
ROW_OF_BAD_RECORDS = 100


class ConversationDataset(Dataset):
    """All records of the sources in order, encoded on access.

    Item `n` has the keys of `processor.encode`: `input_ids`, `labels` [T] and, with images,
    `pixel_values` [k, 3, H, W], with items of other senses likewise. If records were skipped,
    `skipped` lists `(number, sentence)`.

    A conversation with items may get a text turn after it, see `TextExchanges`. It gets none if
    both together exceed `max_length`, which would drop its oldest turn and the item in it.

    With `needs_kl_mask`, `with_kl_mask` marks all answers of conversations without items, and the
    text turns after others.

    A skipped record is replaced by the next good one of the same source, cyclically; in a stream,
    of the same shuffle buffer. So item `n` depends only on `n`, not on rank, worker, epoch or
    earlier reads. Batches keep their size, ranks stay in step, and resuming repeats them.

    Raises:
        WingsError: on access, for a bad record (`stop`), for `ROW_OF_BAD_RECORDS` in a row
            (`skip`), and for a source that cannot be read any more.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        processor: "WingsProcessor | None",
        max_length: int | None = None,
        on_bad_record: Literal["stop", "skip"] = "stop",
        exchanges: TextExchanges | None = None,
        needs_kl_mask: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.sources, self.limits = list(sources), limits or Limits()
        self.records = [open_records(source, self.limits) for source in sources]
        self.processor = processor
        self.max_length = max_length
        self.on_bad_record = on_bad_record
        self.exchanges, self.needs_kl_mask = exchanges, needs_kl_mask
        self.folders = [
            records.folder if source.images is None else source.images
            for source, records in zip(self.sources, self.records, strict=True)
        ]
        # Records used of each source, and the number of its first record.
        self.lengths = [
            len(records) if source.limit is None else min(source.limit, len(records))
            for source, records in zip(self.sources, self.records, strict=True)
        ]
        self.starts = [0, *itertools.accumulate(self.lengths)]

    @classmethod
    def of(cls, recipe: Recipe, processor: "WingsProcessor | None") -> "ConversationDataset":
        """The training data of a recipe; it cannot be encoded before a processor is set."""
        return cls(
            recipe.data, processor, recipe.max_length, recipe.on_bad_record, exchanges_of(recipe),
            needs_kl_mask=recipe.kl_to_base is not None, limits=recipe.limits,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        source, first = locate(number, self.starts)
        length, start = self.lengths[source], self.starts[source]
        buffer = self.records[source].shuffle_buffer
        if buffer is not None:
            # The rest of a stream may be far away.
            start += first - first % buffer
            length = min(buffer, self.starts[source + 1] - start)
            first %= buffer
        skipped: list[tuple[int, str]] = []
        for step in range(min(length, ROW_OF_BAD_RECORDS)):
            candidate = start + (first + step) % length
            try:
                sample = self.encode(candidate)
            except SourceError as error:
                raise WingsError(str(error)) from None
            except WingsError as error:
                if self.on_bad_record == "stop":
                    raise WingsError(
                        f"{str(error).rstrip('.')}; correct it, or set on_bad_record: skip in the"
                        " recipe to skip such records."
                    ) from None
                skipped.append((candidate, str(error)))
                continue
            return {**sample, "skipped": skipped} if skipped else sample
        file, why = self.records[source].path, skipped[0][1]
        raise WingsError(
            f"{file}: {len(skipped)} records in a row cannot be used. The first one: {why}."
        )

    def sampler(self, batch_size: int, seed: int) -> RecordSampler:
        """The sampler that mixes the sources by weights and shares."""
        return RecordSampler(
            self.lengths,
            [source.weight for source in self.sources],
            batch_size,
            seed,
            shares=[source.share for source in self.sources],
            shuffle_buffers=[records.shuffle_buffer for records in self.records],
        )

    def messages(self, number: int) -> tuple[list[Message], list[Message]]:
        """Record `number` as chat messages, and its text turn: two messages or none.

        Raises:
            WingsError: names file and record.
        """
        source, inner = locate(number, self.starts)
        record: dict[str, Any] = {}
        with naming(lambda: self._name(source, inner, record)):
            record = self.records[source][inner]
            messages = to_messages(record, self.folders[source])
            return messages, [] if self.exchanges is None else self.exchanges.after(
                number, messages
            )

    def encode(self, number: int) -> dict[str, Any]:
        """Record `number` as tensors, not replaced if bad; a `WingsError` names file and record."""
        messages, text_turn = self.messages(number)
        with naming(lambda: self.name(number)):
            sample = self._encode(messages, text_turn)
            if not bool((sample["labels"][1:] != -100).any()):
                raise WingsError("no token of it is trained")
            return sample

    def name(self, number: int) -> str:
        """Description of record `number` for messages: file, place in it, and its id if any."""
        source, inner = locate(number, self.starts)
        record: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            record = self.records[source][inner]
        return self._name(source, inner, record)

    def _name(self, source: int, inner: int, record: dict[str, Any]) -> str:
        name = f" (id {record['id']!r:.80})" if record.get("id") is not None else ""
        return f"{self.records[source].place(inner)}{name}"

    def _encode(self, messages: list[Message], text_turn: list[Message]) -> dict[str, Any]:
        processor = self.processor
        assert processor is not None, "set the processor before a record is encoded"
        processor.image_processor.limits = self.limits
        if text_turn:
            sample = processor.encode([*messages, *text_turn])
            if self.max_length is None or len(sample["input_ids"]) <= self.max_length:
                # The LLM answers the text turn without the images before it.
                base_inputs = processor.encode(text_turn) if self.needs_kl_mask else None
                return with_kl_mask(sample, base_inputs) if base_inputs else sample
        sample = processor.encode(messages, max_length=self.max_length)
        # If images or sounds were dropped to fit, the remaining turns may be about them.
        is_masked = self.needs_kl_mask and not items_of(messages)
        return with_kl_mask(sample, sample) if is_masked else sample


def exchanges_of(recipe: Recipe) -> TextExchanges | None:
    """The text turns of a recipe, without those that its evaluation sets aside."""
    if recipe.text_turns is None:
        return None
    return TextExchanges(recipe.text_turns, recipe.seed, recipe.evaluate.text_after_image)
