"""Opening: the records that a source of a recipe names, whatever they lie in."""

from collections.abc import Callable
from pathlib import Path

from wings.errors import WingsError
from wings.train.recipe import Source

from .dataset_records import DatasetRecords, StreamedRecords, is_saved
from .json_records import JsonRecords, LineRecords
from .parquet_records import ParquetRecords
from .records import JoinedRecords, Records
from .shard_records import ShardRecords
from .source_files import ENDINGS, source_files, source_folder

_KINDS: dict[str, Callable[[Path], Records]] = {
    ".json": JsonRecords,
    ".jsonl": LineRecords,
    ".ndjson": LineRecords,
    ".parquet": ParquetRecords,
    ".tar": ShardRecords,
}


def open_records(source: Source) -> Records:
    """The records of one source.

    Raises:
        WingsError: missing, unreadable or empty files, an unknown ending, no such dataset.
    """
    if source.stream:
        records: Records = StreamedRecords(source)
    elif source.split or is_saved(source.path):
        records = DatasetRecords(source)
    else:
        parts = [_open(path) for path in source_files(source.path)]
        if len(parts) == 1 and parts[0].path == Path(source.path).expanduser():
            records = parts[0]
        else:
            folder = source_folder(source.path)
            records = JoinedRecords(Path(source.path).expanduser(), folder, parts)
    if not len(records):
        raise WingsError(f"{records.path}: holds no records.")
    return records


def _open(path: Path) -> Records:
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise WingsError(f"{path}: unknown ending '{kind}'; use {', '.join(ENDINGS)}.")
    return _KINDS[kind](path)
