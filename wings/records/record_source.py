"""A source of records: which files or dataset, and what one record may cost."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated

from wings.processing.image_limits import ImageLimits


class PathKind(Enum):
    """Kinds of paths in a recipe; a field has one as `Annotated[str, PathKind.FILE]`."""

    FILE = auto()  # a file or folder
    RECORDS = auto()  # as `RecordSource.path`, with patterns; with `split`, maybe a dataset's name
    MODEL = auto()  # a folder, or a model's name on the Hub
    CHECKPOINT = auto()  # a folder, or ORG/NAME on the Hub
    TOWER = auto()  # a name; a path only after `local-dir:`


@dataclass
class RecordSource:
    """Files or a dataset of records.

    Attributes:
        path: a `.json` (LLaVA's list), `.jsonl`, `.parquet` or `.tar` (WebDataset shards) file; a
            folder, a pattern (`parts/*.jsonl`) or a range (`shards-{000..012}.tar`) of them; a
            folder from `save_to_disk`; with `split`, a dataset's Hub name or folder.
        images: folder that image paths are relative to; default: the folder of `path`.
        limit (records): use only this many records, from the first.
        split: split to read with Hugging Face `datasets` (memory-mapped: any size).
        subset: configuration of the dataset.
        stream: read while training, without a copy on disk; each reading process (workers times
            GPUs) reads the whole stream.
        shuffle_buffer (records): records of a stream that are shuffled together in memory.
    """

    path: Annotated[str, PathKind.RECORDS]
    images: Annotated[str, PathKind.FILE] | None = None
    limit: int | None = None
    split: str | None = None
    subset: str | None = None
    stream: bool = False
    shuffle_buffer: int = 1000


@dataclass
class Limits(ImageLimits):
    """Bounds on the cost of a record; a record beyond them is a bad record.

    Attributes:
        record_bytes (bytes): bytes of a record's JSON or caption. Parsing takes up to 50 times as
            many.
    """

    record_bytes: int = 64 * 2**20
