"""`RunData`: the samples of a run, their order, and how they are joined to batches."""

from dataclasses import dataclass
from typing import Any, Protocol

from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe

from .bucketing import BatchingSampler
from .collator import Collator, Packer
from .dataset import ConversationDataset
from .lengths import LengthEstimator
from .sampler import RecordSampler


class TrainingData(Protocol):
    """Encoded samples by number and their sampler: see `ConversationDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...

    def sampler(self, batch_size: int, seed: int) -> RecordSampler:
        """The sampler of every epoch."""


@dataclass(frozen=True)
class RunData:
    """The training data of a run.

    Attributes:
        samples: encoded on access.
        records: the same, if they are those of the recipe.
        order: the samples of every epoch.
        sampler: the same, or in batches of similar lengths.
        pad: joins samples, one to a row.
        collate: joins samples as `batching` says.
    """

    samples: TrainingData
    records: ConversationDataset | None
    order: RecordSampler
    sampler: RecordSampler | BatchingSampler
    pad: Collator
    collate: Collator

    @classmethod
    def of(cls, recipe: Recipe, processor: WingsProcessor, given: TrainingData | None) -> "RunData":
        """The data of a recipe, or samples that are given instead.

        Raises:
            WingsError: a source cannot be opened.
        """
        records = ConversationDataset.of(recipe, processor) if given is None else None
        samples: TrainingData | None = given if records is None else records
        assert samples is not None
        order = samples.sampler(recipe.batch_size, recipe.seed)
        pad = Collator(processor.tokenizer.pad_token_id)
        if records is None or recipe.batching == "pad":
            return cls(samples, records, order, order, pad, pad)
        lengths = LengthEstimator(records, processor, recipe.max_length)
        sampler = BatchingSampler(order, recipe.batching, lengths)
        packer = Packer(processor.tokenizer.pad_token_id, recipe.max_length)
        return cls(
            samples, records, order, sampler, pad, packer if recipe.batching == "pack" else pad
        )
