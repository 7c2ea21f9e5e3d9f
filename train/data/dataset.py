"""The data of a run: all records of a recipe as one map-style dataset of encoded conversations."""

import bisect
import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Dataset

from wings.errors import WingsError
from wings.train.recipe import Recipe, Source

from .formats import Message, to_messages
from .kl_turns import with_retained
from .readers.open_records import open_records
from .readers.records import SourceError
from .sampler import Order
from .text_turns import TextExchanges

if TYPE_CHECKING:
    from wings.processing.processor import WingsProcessor

# So many unusable records in a row mean a wrong folder, not a broken file; the run stops instead of
# reading on for hours.
ROW_OF_BAD_RECORDS = 100


class Conversations(Dataset):
    """Every record of the sources in order, encoded on demand.

    Item `n` is what `processor.encode` gives (`input_ids`, `labels` [T], `pixel_values` [k, 3, H,
    W] where there are images) and, where records were skipped, `skipped`: a list of `(number,
    sentence)`.

    A conversation with pictures may get an exchange of text behind it, see `TextExchanges`. Where
    the two together are longer than `max_length` it goes without: what would be dropped to make
    room is its oldest turn, and the picture in it.

    With `retains`, a conversation without pictures and one with an exchange behind it also have
    what `with_retained` adds: all answers of the former, and that of the exchange of the latter.

    A skipped record is replaced by the next good one of the same source (wrapping round; of a
    stream, within its window). So item `n` depends on `n` alone: not on the rank, the worker, the
    epoch or what was read before. Batches keep their size, ranks stay in step, and resume repeats
    them.

    Raises:
        WingsError: on access, for a bad record (`stop`), for `ROW_OF_BAD_RECORDS` of them on end
            (`skip`), and for a source that went away.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: "WingsProcessor | None",
        max_length: int | None = None,
        on_bad_record: Literal["stop", "skip"] = "stop",
        exchanges: TextExchanges | None = None,
        retains: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.records = [open_records(source) for source in sources]
        self.processor = processor
        self.max_length = max_length
        self.on_bad_record = on_bad_record
        self.exchanges, self.retains = exchanges, retains
        self.folders = [
            records.folder if source.images is None else source.images
            for source, records in zip(self.sources, self.records, strict=True)
        ]
        # Records of each source that count, and where each source begins in the common numbering.
        self.lengths = [
            len(records) if source.limit is None else min(source.limit, len(records))
            for source, records in zip(self.sources, self.records, strict=True)
        ]
        self.starts = [0, *itertools.accumulate(self.lengths)]

    @classmethod
    def of(cls, recipe: Recipe, processor: "WingsProcessor | None") -> "Conversations":
        """The training data of a recipe; without a processor none of it can be encoded yet."""
        turns = recipe.text_turns
        exchanges = None if turns is None else TextExchanges(turns, recipe.seed)
        return cls(
            recipe.data, processor, recipe.max_length, recipe.on_bad_record, exchanges,
            retains=recipe.kl_to_base is not None,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        source, first = self._find(number)
        length, start = self.lengths[source], self.starts[source]
        window = self.records[source].window
        if window is not None:
            # The rest of a stream may be far away.
            start += first - first % window
            length = min(window, self.starts[source + 1] - start)
            first %= window
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
                        f"{error} (on_bad_record: skip in the recipe passes over such records)"
                    ) from None
                skipped.append((candidate, str(error)))
                continue
            return {**sample, "skipped": skipped} if skipped else sample
        file, why = self.records[source].path, skipped[0][1]
        raise WingsError(
            f"{file}: {len(skipped)} records in a row cannot be used, the first because: {why}"
        )

    def order(self, batch_size: int, seed: int) -> Order:
        """The samples of every epoch, as the sources' weights and shares mix them."""
        return Order(
            self.lengths,
            [source.weight for source in self.sources],
            batch_size,
            seed,
            shares=[source.share for source in self.sources],
            windows=[records.window for records in self.records],
        )

    def messages(self, number: int) -> tuple[list[Message], list[Message]]:
        """Record `number` as chat messages, and what text is put behind it: two messages or none.

        A `WingsError` names file and record.
        """
        source, inner = self._find(number)
        try:
            own = to_messages(self.records[source][inner], self.folders[source])
            return own, [] if self.exchanges is None else self.exchanges.after(number, own)
        except SourceError as error:
            raise SourceError(f"{self.records[source].place(inner)}: {error}") from error
        except WingsError as error:
            raise WingsError(f"{self.name(number)}: {error}") from error

    def encode(self, number: int) -> dict[str, Any]:
        """Record `number` as tensors, without replacement; a `WingsError` names file and record."""
        own, added = self.messages(number)
        try:
            sample = self._encode(own, added)
            if not bool((sample["labels"][1:] != -100).any()):
                raise WingsError("no token of it is trained")
            return sample
        except WingsError as error:
            raise WingsError(f"{self.name(number)}: {error}") from error

    def name(self, number: int) -> str:
        """How a person finds record `number`: file, place in it, and its id if it has one."""
        source, inner = self._find(number)
        record: dict[str, Any] = {}
        with contextlib.suppress(WingsError):
            record = self.records[source][inner]
        name = f" (id {record['id']!r})" if record.get("id") is not None else ""
        return f"{self.records[source].place(inner)}{name}"

    def source_of(self, number: int) -> int:
        """Which of the sources record `number` belongs to."""
        return self._find(number)[0]

    def _encode(self, own: list[Message], added: list[Message]) -> dict[str, Any]:
        processor = self.processor
        assert processor is not None, "set the processor before a record is encoded"
        if added:
            sample = processor.encode([*own, *added])
            if self.max_length is None or len(sample["input_ids"]) <= self.max_length:
                # Without the pictures before it: this is what should not change.
                alone = processor.encode(added) if self.retains else None
                return with_retained(sample, alone) if alone else sample
        sample = processor.encode(own, max_length=self.max_length)
        # Where pictures were dropped to fit, what is left may be about them.
        is_text = all(part["type"] == "text" for one in own for part in one["content"])
        return with_retained(sample, sample) if self.retains and is_text else sample

    def _find(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        source = bisect.bisect_right(self.starts, number) - 1
        return source, number - self.starts[source]
