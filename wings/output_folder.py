"""A folder that a command writes: marked as its own, locked while it writes, and cleaned up."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from wings.errors import WingsError

INNER = ".wings"
# Errors of a file system that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: "weakref.WeakSet[IO[Any]]" = weakref.WeakSet()


class OutputFolder:
    """A folder that belongs to one command.

    A command takes a folder that is missing or empty and puts `.wings/mark.json` in it, with its
    own name and the names of what it writes. A name is recorded before the file is made. Whatever
    else is in the folder is never replaced or removed. Unfinished files are in `.wings/drafts`.

    Args:
        path: the folder; need not exist.
        maker: the command, such as `wings eval`.
        option: what the user gave the path with, for messages.
    """

    def __init__(self, path: str | Path, maker: str, option: str = "--output") -> None:
        self.path = Path(path).expanduser()
        self.maker, self.option = maker, option
        self.drafts = self.path / INNER / "drafts"
        self._mark = self.path / INNER / "mark.json"

    @property
    def is_claimed(self) -> bool:
        """True if the folder has the mark of a command."""
        return self._mark.is_file()

    @property
    def names(self) -> list[str]:
        """Names of the files and folders that the command has written, or was about to write."""
        return list(self._read()["names"]) if self.is_claimed else []

    def validate(self) -> None:
        """Check that the command may write here; nothing is written.

        Raises:
            WingsError: a file, or a folder with content of somebody else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise WingsError(f"{self.option}: {self.path} is a file; choose a folder.")
        if self.is_claimed:
            maker = self._read()["maker"]
            if maker != self.maker:
                raise WingsError(
                    f"{self.option}: {self.path} was written by {maker}; choose another folder for"
                    f" {self.maker}."
                )
        elif others := self._unmarked():
            raise WingsError(
                f"{self.option}: {self.path} contains files without a mark of {self.maker}"
                f" ({', '.join(others[:3])}{', ...' if others[3:] else ''}); nothing was changed;"
                " choose a new or empty folder."
            )

    def claim(self) -> None:
        """Create and mark the folder.

        Raises:
            WingsError: see `validate`.
            OSError: the folder cannot be written.
        """
        self.validate()
        if not self.is_claimed:
            self.drafts.parent.mkdir(parents=True, exist_ok=True)
            self._save([])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Claims the folder and holds its lock in the block; the lock ends with the process.

        Raises:
            WingsError: another process holds it, or see `validate`.
            OSError: the folder cannot be written.
        """
        self.validate()
        self.drafts.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        try:
            self.claim()
            yield
        finally:
            lock.close()

    def record(self, *names: str) -> None:
        """Record names that the command is about to write.

        Raises:
            WingsError: one of them is in the folder and is not the command's.
        """
        known = self.names
        for name in names:
            if name not in known and os.path.lexists(self.path / name):
                raise WingsError(
                    f"{self.option}: {self.path / name} was not written by {self.maker} and is in"
                    " the way; move it elsewhere."
                )
        if new := [name for name in dict.fromkeys(names) if name not in known]:
            self._save([*known, *new])

    def forget(self, name: str) -> None:
        """Drop a name that was removed."""
        self._save([other for other in self.names if other != name])

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically, by its name in the folder."""
        self.record(name)
        self._replace(self.path / name, text)

    def write_inner(self, name: str, text: str) -> None:
        """Write a small file atomically to `.wings`."""
        self._replace(self.path / INNER / name, text)

    def draft(self, name: str) -> Path:
        """A fresh empty folder for unfinished files."""
        folder = self.drafts / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def discard(self, name: str) -> None:
        """Remove a recorded file or folder, so that a kill leaves no half of it."""
        if name not in self.names:
            raise ValueError(f"{name} is not recorded in {self.path}")
        if os.path.lexists(self.path / name):
            doomed = self.draft("doomed")
            os.replace(self.path / name, doomed / name)
            shutil.rmtree(doomed)
        self.forget(name)

    def place(self, draft: Path, last: str = "") -> None:
        """Move what is in a draft to the folder, the file named `last` at the end."""
        entries = sorted(draft.iterdir(), key=lambda entry: (entry.name == last, entry.name))
        self.record(*(entry.name for entry in entries))
        for entry in entries:
            if (self.path / entry.name).is_dir():
                self.discard(entry.name)
                self.record(entry.name)
            os.replace(entry, self.path / entry.name)
        draft.rmdir()

    def clear(self) -> None:
        """Remove unfinished files."""
        if self.drafts.exists():
            shutil.rmtree(self.drafts)

    def remove(self, with_folder: bool = True) -> None:
        """Remove all that the command has written, and the folder if nothing else is in it.

        A folder that is missing or without a mark is left alone.
        """
        if not self.is_claimed:
            return
        self.validate()
        for name in self.names:
            self.discard(name)
        shutil.rmtree(self.path / INNER)
        with contextlib.suppress(OSError):
            if with_folder:
                self.path.rmdir()

    def _unmarked(self) -> list[str]:
        if not self.path.is_dir():
            return []
        # Another process may be about to write the mark.
        return sorted({entry.name for entry in self.path.iterdir()} - {INNER})

    def _read(self) -> dict[str, Any]:
        try:
            mark = json.loads(self._mark.read_text(encoding="utf-8"))
            maker, names = mark["maker"], mark["names"]
            if not isinstance(maker, str) or not all(isinstance(name, str) for name in names):
                raise TypeError("no names")
            return mark
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WingsError(
                f"{self.option}: {self._mark} is not readable, so it is unknown what"
                f" {self.maker} wrote; choose another folder, or restore that file."
            ) from error

    def _save(self, names: list[str]) -> None:
        mark = {"maker": self.maker, "names": names}
        self._replace(self._mark, json.dumps(mark, indent=1) + "\n")

    def _replace(self, path: Path, text: str) -> None:
        # In the inner folder, where nobody else has files.
        writing = self.path / INNER / f".{path.name}"
        writing.write_text(text, encoding="utf-8")
        sync(writing)
        os.replace(writing, path)

    def _lock(self) -> IO[Any]:
        path = self.path / INNER / "lock"
        while True:
            file = path.open("ab", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    file.close()
                    raise WingsError(
                        f"{self.option}: another process is writing to {self.path}; wait for its"
                        f" end, stop it, or choose another folder."
                    ) from error
            # The folder may have been removed while this process waited for the file.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _held.add(file)
                return file
            file.close()
            path.parent.mkdir(parents=True, exist_ok=True)


def _drop_locks() -> None:
    """Closes a child's copies of the locks: it may live on when its parent is killed."""
    for file in list(_held):
        with contextlib.suppress(OSError):
            file.close()


os.register_at_fork(after_in_child=_drop_locks)


@contextlib.contextmanager
def reading_lock(folder: Path) -> Iterator[None]:
    """Keeps commands from writing to a folder in the block, if a command made it.

    A folder without a lock, or one that this user may not open, is not held.

    Raises:
        WingsError: a command is writing to it.
    """
    try:
        file = (folder / INNER / "lock").open("rb")
    except OSError:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise WingsError(
                    f"Another process is writing to {folder}: wait for its end, or stop it."
                ) from error
        yield


def sync(path: Path) -> None:
    """Flush a file, or all files of a folder, to disk.

    Otherwise a power loss could keep a name without its content, and a network disk may report only
    now that it is full.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def make_readable(files: Iterable[Path]) -> None:
    """Give files the mode that the user's umask gives to new files.

    Libraries that write aside and rename leave their files readable by the owner alone.
    """
    # It can be read only by setting it; in between, another thread's files are not too open.
    umask = os.umask(0o077)
    os.umask(umask)
    for file in files:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~umask)
