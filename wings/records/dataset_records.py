"""Records of a Hugging Face dataset, memory-mapped or streamed."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from wings.errors import WingsError

from .members import to_record
from .record_source import RecordSource
from .records import Records, SourceError
from .source_files import ENDINGS, source_files, source_folder

_BUILDERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}


class DatasetRecords(Records):
    """A memory-mapped dataset on disk: any size, one copy for all processes.

    Images stay encoded bytes; columns are the keys of a record.
    """

    def __init__(self, source: RecordSource) -> None:
        self.path, self.folder = _name(source), _folder(source)
        # Arrow is the only format that decodes nothing.
        self._dataset = load(source).with_format("arrow")
        self._features = self._dataset.features

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, number: int) -> Any:
        """Row `number`."""
        return _from_row(self._dataset[int(number)], self._features)


class StreamedRecords(Records):
    """A dataset that is read from start to end, one shuffle buffer at a time.

    Only the current buffer is in memory, so reads must go buffer by buffer, as in `RecordSampler`.
    A step back opens the stream again and skips to the buffer. Every process reads the whole
    stream, so that the order does not depend on the number of processes.

    Raises:
        WingsError: neither the dataset nor `limit` gives a length, or the stream ends early.
    """

    shuffle_buffer: int
    # The open stream, and number and table of the current buffer.
    _blocks: Iterator[Any] | None
    _block: int
    _table: Any

    def __init__(self, source: RecordSource) -> None:
        self.path, self.folder = _name(source), _folder(source)
        self.shuffle_buffer = source.shuffle_buffer
        self._dataset = load(source).with_format("arrow")
        self._features = self._dataset.features or {}
        splits = self._dataset.info.splits or {}
        known = splits[source.split].num_examples if source.split in splits else None
        counts = [count for count in (source.limit, known) if count]
        if not counts:
            raise WingsError(
                f"{self.path}: the dataset does not give its number of records; set limit to the"
                " number to read."
            )
        self._length = min(counts)
        self._forget()

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        """State without the open stream; each process opens its own."""
        return {**vars(self), "_blocks": None, "_block": -1, "_table": None}

    def read(self, number: int) -> Any:
        """Row `number` of the stream."""
        block, inner = divmod(number, self.shuffle_buffer)
        blocks = self._blocks
        if blocks is None or block < self._block:
            blocks = self._blocks = self._open(block)
            self._block = block - 1
        while self._block < block:
            self._table = self._next(blocks)
            self._block += 1
        if inner >= self._table.num_rows:
            raise SourceError(self._ended())
        return _from_row(self._table.slice(inner, 1), self._features)

    def _open(self, block: int) -> Iterator[Any]:
        # Not `iter(dataset)`, which gives each data worker only a part of the dataset.
        return self._dataset.skip(block * self.shuffle_buffer).iter(batch_size=self.shuffle_buffer)

    def _next(self, blocks: Iterator[Any]) -> Any:
        try:
            return next(blocks)
        except StopIteration:
            raise SourceError(self._ended()) from None
        # Error types depend on where the stream comes from.
        except Exception as error:
            self._forget()
            raise SourceError(f"the stream failed ({_line(error)})") from error

    def _forget(self) -> None:
        self._blocks, self._block, self._table = None, -1, None

    def _ended(self) -> str:
        return f"the stream has fewer than {self._length} records; lower limit"


def load(source: RecordSource) -> Any:
    """The dataset of a source.

    Args:
        source: `path` is a folder from `save_to_disk`, a Hub name, a dataset folder without script,
            or files as for `source_files`; with `split` and `subset`.

    Raises:
        WingsError: no such dataset, subset or split, or `datasets` is not installed.
    """
    datasets = _library()
    path = Path(source.path).expanduser()
    failures = (datasets.exceptions.DatasetsError, OSError, ValueError)
    try:
        if is_saved(source.path):
            if source.stream:
                raise WingsError(
                    f"{source.path}: a folder from save_to_disk cannot be streamed; remove stream."
                )
            return _saved(datasets, source, path)
        if path.suffix.lower() in ENDINGS:
            files = source_files(source.path)
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise WingsError(f"{source.path}: shards are read without split; remove it.")
            names = {source.split: [str(file) for file in files]}
            options: dict[str, Any] = {"path": builder, "data_files": names}
        else:
            options = {"path": str(path) if path.exists() else source.path, "name": source.subset}
        return datasets.load_dataset(**options, split=source.split, streaming=source.stream)
    except WingsError:
        raise
    except failures as error:
        raise WingsError(f"{_name(source)}: cannot be loaded ({_line(error)}).") from error


def is_saved(path: str) -> bool:
    """True for a folder from `save_to_disk`."""
    folder = Path(path).expanduser()
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(datasets: ModuleType, source: RecordSource, path: Path) -> Any:
    dataset = datasets.load_from_disk(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        if source.split not in dataset:
            raise WingsError(
                f"{source.path}: set split to one of {', '.join(dataset)}"
                f"{f', not {source.split}' if source.split else ''}."
            )
        dataset = dataset[source.split]
    elif source.split and dataset.split is not None and str(dataset.split) != source.split:
        raise WingsError(f"{source.path}: contains split {dataset.split}, not {source.split}.")
    return dataset


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise WingsError(
            "This source needs Hugging Face datasets, which is not installed; run pip install"
            " datasets."
        ) from None
    return datasets


def _from_row(table: Any, features: dict[str, Any]) -> dict[str, Any]:
    """The record in a table of one row."""
    row = table.to_pylist()[0]
    row = {name: _plain(value, features.get(name)) for name, value in row.items()}
    if "__key__" not in row:
        return row
    # `datasets` reads shards as one column per extension.
    members = {name: value for name, value in row.items() if not name.startswith("__")}
    return to_record(row["__key__"], {k: v for k, v in members.items() if v is not None})


def _plain(value: Any, feature: Any) -> Any:
    """Decode columns of mixed types (content as a text or list of parts), stored as JSON text."""
    datasets = _library()
    if value is None or feature is None:
        return value
    if isinstance(feature, datasets.Json):
        return json.loads(value)
    if isinstance(feature, dict):
        return {name: _plain(inner, feature.get(name)) for name, inner in value.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_plain(inner, feature.feature) for inner in value]
    return value


def _name(source: RecordSource) -> Path:
    parts = [part for part in (source.subset, source.split) if part]
    return Path(f"{source.path} ({', '.join(parts)})" if parts else source.path)


def _folder(source: RecordSource) -> Path:
    path = Path(source.path).expanduser()
    is_local = path.exists() or path.suffix.lower() in ENDINGS
    return source_folder(source.path) if is_local else Path()


def _line(error: BaseException) -> str:
    # The message of `datasets` is generic; the cause has the reason.
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
