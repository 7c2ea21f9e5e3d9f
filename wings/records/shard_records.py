"""Records of a WebDataset tar shard: an index in memory, data read on access."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from wings.errors import WingsError

from .members import is_used, kind_of, to_record
from .records import Records, SourceError, one_line, validate_size

# Index entry of a member: location of its bytes, and its extension.
_MEMBER = np.dtype([("offset", np.int64), ("size", np.int64), ("extension", np.int32)])


# The limit of a member by its kind; None is a text.
LIMITS = {None: "record_bytes", "image": "image_bytes", "audio": "image_bytes"}
LIMITS |= {"video": "video_bytes"}


class ShardRecords(Records):
    """The records of one uncompressed `.tar`: all members that share a key.

    The key is a member's path up to the first dot of its last part; the rest is its extension:
    `a/x.jpg` and `a/x.json` are one record. Opening reads all headers once.

    Raises:
        WingsError: not a tar, a compressed one, or a truncated one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        by_key: dict[str, list[tuple[int, int, int]]] = {}
        extensions: dict[str, int] = {}
        try:
            # "r:" is an uncompressed tar, which has offsets.
            with tarfile.open(path, "r:") as tar:
                for member in iter(tar.next, None):
                    # tarfile would keep all headers; typeshed lacks the attribute.
                    tar.members.clear()  # type: ignore[attr-defined]
                    key, extension = split_name(member.name)
                    if member.issparse():
                        raise tarfile.ReadError(f"{member.name!r} is sparse")
                    if member.isfile() and is_used(extension):
                        code = extensions.setdefault(extension, len(extensions))
                        entry = (member.offset_data, member.size, code)
                        by_key.setdefault(key, []).append(entry)
                # tarfile takes an unreadable or missing header for the end.
                tar.fileobj.seek(tar.offset)
                if tar.fileobj.read(512) != bytes(512):
                    raise tarfile.ReadError(f"no header and no end at {tar.offset:,} bytes")
        # Damaged headers also raise errors of Python, such as those of numbers.
        except Exception as error:
            raise WingsError(
                one_line(f"{path}: not readable as an uncompressed tar ({error})")
                + "; decompress it, or download a truncated one again."
            ) from None
        self._extensions = list(extensions)
        self._members = np.array(
            [entry for entries in by_key.values() for entry in entries], dtype=_MEMBER
        )
        self._starts = np.cumsum([0, *map(len, by_key.values())])
        self._keys = np.array(
            [key.encode("utf-8", "surrogateescape") for key in by_key], dtype=np.bytes_
        )

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, number: int) -> Any:
        """The record of key `number`, its sources as bytes."""
        members = {}
        try:
            with self.path.open("rb") as file:
                for one in self._members[self._starts[number] : self._starts[number + 1]]:
                    extension, size = self._extensions[one["extension"]], int(one["size"])
                    key = LIMITS[kind_of(extension)]
                    validate_size(size, getattr(self, key), f"its .{extension}", key)
                    if extension in members:
                        raise WingsError(f"the shard has two .{extension} under its key")
                    file.seek(int(one["offset"]))
                    data = file.read(size)
                    if len(data) < size:
                        raise EOFError("it was shortened")
                    members[extension] = data
        except (OSError, EOFError) as error:
            raise SourceError(f"the shard cannot be read any more ({error})") from None
        return to_record(self._key(number), members)

    def place(self, number: int) -> str:
        """The shard and the key in it."""
        return f"{self.path} key {self._key(number)}"

    def _key(self, number: int) -> str:
        """The key; bytes that are no UTF-8 are written as `\\xff`."""
        return self._keys[number].decode("utf-8", "backslashreplace")


def split_name(name: str) -> tuple[str, str]:
    """`a.b/x.0.JPG` -> (`a.b/x`, `0.jpg`); a hidden file has no extension."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""
