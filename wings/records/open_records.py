"""Opens the records of a source, in any supported format."""

from collections.abc import Callable
from pathlib import Path

from wings.errors import WingsError

from .dataset_records import DatasetRecords, StreamedRecords, is_saved
from .file_records import ParquetRecords, open_json, open_json_lines
from .record_source import Limits, RecordSource
from .records import JoinedRecords, Records, one_line
from .shard_records import ShardRecords
from .source_files import ENDINGS, source_files, source_folder

_KINDS: dict[str, Callable[[Path], Records]] = {
    ".json": open_json,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".parquet": ParquetRecords,
    ".tar": ShardRecords,
}


def open_records(source: RecordSource, limits: Limits | None = None) -> Records:
    """The records of one source.

    Args:
        source: a file, several files, or a dataset.
        limits: what a record may cost; default: `Limits()`.

    Raises:
        WingsError: missing, unreadable or empty files, an unknown file type, no such dataset.
    """
    limits = limits or Limits()
    if source.stream:
        records: Records = StreamedRecords(source)
    elif source.split or is_saved(source.path):
        records = DatasetRecords(source)
    else:
        parts = [_open(path) for path in source_files(source.path)]
        for part in parts:
            part.record_bytes, part.image_bytes = limits.record_bytes, limits.image_bytes
            part.video_bytes = limits.video_bytes
        if len(parts) == 1 and parts[0].path == Path(source.path).expanduser():
            records = parts[0]
        else:
            folder = source_folder(source.path)
            records = JoinedRecords(Path(source.path).expanduser(), folder, parts)
    if not len(records):
        raise WingsError(f"{records.path}: contains no records; check the file.")
    return records


def _open(path: Path) -> Records:
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise WingsError(f"{path}: unknown file type '{kind}'; use {', '.join(ENDINGS)}.")
    try:
        return _KINDS[kind](path)
    except WingsError:
        raise
    except Exception as error:
        raise WingsError(one_line(f"{path}: cannot be opened ({error}).")) from error
