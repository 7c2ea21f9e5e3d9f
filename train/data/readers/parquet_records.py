"""Records of a parquet file, kept in memory as an Arrow table."""

from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .records import Records


class ParquetRecords(Records):
    """The rows of a `.parquet` file."""

    def __init__(self, path: Path) -> None:
        # Imported here: only those who have parquet pay for it.
        import pyarrow
        import pyarrow.parquet

        self.path, self.folder = path, path.parent
        try:
            self._table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise WingsError(
                f"{path}: not readable as parquet ({' '.join(str(error).split())})."
            ) from None

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, number: int) -> Any:
        """Row `number`."""
        return self._table.slice(number, 1).to_pylist()[0]
