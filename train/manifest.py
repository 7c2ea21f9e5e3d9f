"""The manifest of a folder: its files with sizes and digests, to tell whole from damaged."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import gather_object

FILE = "manifest.json"
# Files are hashed in parts, so that threads and processes share the work on a large one.
PART = 64 * 2**20
_BLOCK = 2**20
_THREADS = 8

# A part of a file: its name and the number of the part.
Part = tuple[str, int]


@dataclass(frozen=True)
class Manifest:
    """Sizes and digests of the files below a folder.

    Attributes:
        bytes: size of each file, by its path relative to the folder.
        sha256: digests of each file's parts of `PART` bytes, in order; an empty file has one part.
    """

    bytes: dict[str, int]
    sha256: dict[str, list[str]]

    @classmethod
    def of(cls, folder: Path, rank: int = 0, ranks: int = 1) -> "Manifest":
        """The manifest of a folder; all processes of a run call this together and share the work.

        Raises:
            OSError: a file cannot be read.
        """
        sizes = {name: (folder / name).stat().st_size for name in files_of(folder)}
        parts = [(name, part) for name, size in sizes.items() for part in range(_parts(size))]
        shared = digests_of(folder, parts[rank::ranks])
        every = dict(gather_object(list(shared.items())))
        sha256 = {n: [every[n, part] for part in range(_parts(size))] for n, size in sizes.items()}
        return cls(sizes, sha256)

    @classmethod
    def read(cls, file: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            OSError, ValueError: missing, or damaged.
        """
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))["files"]
            sizes = {name: entry["bytes"] for name, entry in entries.items()}
            sha256 = {name: list(entry["sha256"]) for name, entry in entries.items()}
            if any(len(sha256[name]) != _parts(size) for name, size in sizes.items()):
                raise ValueError("digests are missing")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file.name} is not a manifest") from error
        return cls(sizes, sha256)

    def to_json(self) -> str:
        """The text that `read` reads."""
        files = {n: {"bytes": size, "sha256": self.sha256[n]} for n, size in self.bytes.items()}
        return json.dumps({"files": files})

    def difference(self, folder: Path) -> str | None:
        """The first difference in names and sizes, as a phrase, or None; nothing is read."""
        for name, size in self.bytes.items():
            try:
                there = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if there != size:
                return f"{name} has {there:,} bytes instead of {size:,}"
        for name in files_of(folder):
            if name not in self.bytes:
                return f"{name} is not in its manifest"
        return None

    def changed_weights(self, folder: Path, with_content: bool) -> str | None:
        """As `difference` and `changed`, of the files of weights alone."""
        names = [name for name in self.bytes if name.endswith(".safetensors")]
        weights = Manifest({n: self.bytes[n] for n in names}, {n: self.sha256[n] for n in names})
        for name, size in weights.bytes.items():
            if (folder / name).stat().st_size != size:
                return f"the size of {name} changed"
        return weights.changed(folder) if with_content else None

    def changed(self, folder: Path, rank: int = 0, ranks: int = 1) -> str | None:
        """The first file whose content changed, as a phrase, or None; reads all files.

        With several processes each reads its share and sees only that.
        """
        parts = [
            (name, part) for name, digests in self.sha256.items() for part in range(len(digests))
        ]
        try:
            for (name, part), digest in digests_of(folder, parts[rank::ranks]).items():
                if digest != self.sha256[name][part]:
                    return f"the content of {name} changed"
        except OSError as error:
            return f"{error.filename} cannot be read ({error.strerror})"
        return None


def files_of(folder: Path) -> list[str]:
    """Relative paths of all files below a folder except hidden ones and its manifest, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    names = [one.as_posix() for one in found if not any(part[0] == "." for part in one.parts)]
    return sorted(name for name in names if name != FILE)


def digests_of(folder: Path, parts: Sequence[Part]) -> dict[Part, str]:
    """SHA-256 of parts of files, on several threads (hashing and reading release the GIL)."""
    threads = max(1, min(_THREADS, (os.cpu_count() or 1), len(parts)))
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(parts, pool.map(lambda part: _digest(folder, *part), parts), strict=True))


def _digest(folder: Path, name: str, part: int) -> str:
    digest, left = hashlib.sha256(), PART
    buffer = memoryview(bytearray(_BLOCK))
    with (folder / name).open("rb", buffering=0) as file:
        file.seek(part * PART)
        while left and (count := file.readinto(buffer[: min(left, _BLOCK)])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def _parts(size: int) -> int:
    return max(1, -(-size // PART))


def lacking(names: Iterable[str], needed: Iterable[str]) -> str | None:
    """The first needed beginning of a name that no name has, as a phrase, or None."""
    names = list(names)
    for start in needed:
        if not any(name.startswith(start) for name in names):
            return f"{start} is missing"
    return None
