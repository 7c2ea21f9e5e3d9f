"""Records of a dataset as Hugging Face's `datasets` keeps it, by number or streamed."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from wings.errors import WingsError
from wings.train.recipe import Source

from .members import to_record
from .records import Records, SourceError
from .source_files import ENDINGS, source_files, source_folder

_BUILDERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}


class DatasetRecords(Records):
    """A dataset that lies on the disk, memory-mapped: any size, and one copy for all processes.

    Pictures stay the bytes that they are stored as; columns are the keys of a record.
    """

    def __init__(self, source: Source) -> None:
        self.path, self.folder = _name(source), _folder(source)
        # As Arrow, for that is the one format in which nothing is decoded.
        self._dataset = load(source).with_format("arrow")
        self._features = self._dataset.features

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, number: int) -> Any:
        """Row `number`."""
        return _from_row(self._dataset[int(number)], self._features)


class StreamedRecords(Records):
    """A dataset that is read from its beginning to its end, one window of records at a time.

    The window that a record lies in is kept, so records must be asked for window by window, as
    `Order` does. A step back opens the stream anew and passes over what stands before. Every
    process that asks reads the whole stream: that is the price of an order that does not depend on
    how many there are.

    Raises:
        WingsError: a length that neither the dataset nor `limit` says, or a stream that ends early.
    """

    window: int
    # The open stream, the number of the window that was read last, and its table.
    _blocks: Iterator[Any] | None
    _block: int
    _table: Any

    def __init__(self, source: Source) -> None:
        self.path, self.folder = _name(source), _folder(source)
        self.window = source.window
        self._dataset = load(source).with_format("arrow")
        self._features = self._dataset.features or {}
        splits = self._dataset.info.splits or {}
        known = splits[source.split].num_examples if source.split in splits else None
        counts = [count for count in (source.limit, known) if count]
        if not counts:
            raise WingsError(
                f"{self.path}: the dataset does not say how many records it has; say how many to"
                " read with limit."
            )
        self._length = min(counts)
        self._forget()

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        """Without the open stream: each process opens its own."""
        return {**vars(self), "_blocks": None, "_block": -1, "_table": None}

    def read(self, number: int) -> Any:
        """Row `number` of the stream."""
        block, inner = divmod(number, self.window)
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
        # Not `iter(dataset)`: in a data worker that gives each worker a part of the dataset.
        return self._dataset.skip(block * self.window).iter(batch_size=self.window)

    def _next(self, blocks: Iterator[Any]) -> Any:
        try:
            return next(blocks)
        except StopIteration:
            raise SourceError(self._ended()) from None
        # A stream fails in as many ways as there are places it may come from.
        except Exception as error:
            self._forget()
            raise SourceError(f"the stream broke off ({_line(error)})") from error

    def _forget(self) -> None:
        self._blocks, self._block, self._table = None, -1, None

    def _ended(self) -> str:
        return f"the stream has fewer records than {self._length}; set limit to what it has"


def load(source: Source) -> Any:
    """The dataset of a source.

    Args:
        source: `path` is a folder from `save_to_disk`, a name on the Hub, a folder of a dataset
            without script, or files as `source_files` takes them; `split` and `subset` choose.

    Raises:
        WingsError: no such dataset, subset or split, or the library is not installed.
    """
    datasets = _library()
    path = Path(source.path).expanduser()
    failures = (datasets.exceptions.DatasetsError, OSError, ValueError)
    try:
        if is_saved(source.path):
            if source.stream:
                raise WingsError(
                    f"{source.path}: save_to_disk wrote this, so any record can be had at once;"
                    " leave out stream."
                )
            return _saved(datasets, source, path)
        if path.suffix.lower() in ENDINGS:
            files = source_files(source.path)
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise WingsError(f"{source.path}: shards are read without split; leave it out.")
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
    """Whether `save_to_disk` wrote this folder."""
    folder = Path(path).expanduser()
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(datasets: ModuleType, source: Source, path: Path) -> Any:
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if source.split not in found:
            raise WingsError(
                f"{source.path}: set split to one of {', '.join(found)}"
                f"{f', not {source.split}' if source.split else ''}."
            )
        found = found[source.split]
    elif source.split and found.split is not None and str(found.split) != source.split:
        raise WingsError(f"{source.path}: holds the split {found.split}, not {source.split}.")
    return found


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise WingsError(
            "this data is read with Hugging Face's datasets, which is not installed:"
            " pip install datasets."
        ) from None
    return datasets


def _from_row(table: Any, features: dict[str, Any]) -> dict[str, Any]:
    """The record in a table of one row."""
    row = table.to_pylist()[0]
    row = {name: _plain(value, features.get(name)) for name, value in row.items()}
    if "__key__" not in row:
        return row
    # Shards that `datasets` reads come as one column per extension.
    members = {name: value for name, value in row.items() if not name.startswith("__")}
    return to_record(row["__key__"], {k: v for k, v in members.items() if v is not None})


def _plain(value: Any, feature: Any) -> Any:
    """What differs in kind from record to record (a content that is a text or a list of parts) is
    stored as JSON, which Arrow hands out as written.
    """
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


def _name(source: Source) -> Path:
    parts = [part for part in (source.subset, source.split) if part]
    return Path(f"{source.path} ({', '.join(parts)})" if parts else source.path)


def _folder(source: Source) -> Path:
    path = Path(source.path).expanduser()
    is_local = path.exists() or path.suffix.lower() in ENDINGS
    return source_folder(source.path) if is_local else Path()


def _line(error: BaseException) -> str:
    # "An error occurred while generating the dataset", says datasets, and why only behind it.
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
