"""Resolves the path of a source to files: a file, folder, pattern or range."""

import glob
import re
from pathlib import Path

from wings.errors import WingsError

ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".tar")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def source_files(path: str) -> list[Path]:
    """The files of a path, sorted by name.

    Args:
        path: a file, a folder (its data files, all of one type), a glob pattern (`*`, `?`, `[..]`,
            `**`), or a range (`shards-{000..012}.tar`), all of whose files must exist.

    Raises:
        WingsError: no files, or files of several types.
    """
    spelled = str(Path(path).expanduser())
    if Path(spelled).is_file():
        return [Path(spelled)]
    if _RANGE.search(spelled):
        return _all_there(path, _expand(spelled))
    if Path(spelled).is_dir():
        inner = sorted(Path(spelled).iterdir())
        files = [one for one in inner if one.suffix.lower() in ENDINGS and one.is_file()]
    elif glob.has_magic(spelled):
        files = sorted(Path(one) for one in glob.glob(spelled, recursive=True))
        files = [one for one in files if one.is_file()]
    else:
        is_file = Path(spelled).suffix.lower() in ENDINGS
        hint = "" if is_file else " (in a recipe, a dataset on the Hub also needs split: train)"
        raise WingsError(f"{path}: no such data file; correct its path{hint}.")
    if not files:
        raise WingsError(f"{path}: no data files found; supported are {', '.join(ENDINGS)}.")
    kinds = sorted({one.suffix.lower() for one in files})
    if len(kinds) > 1:
        raise WingsError(
            f"{path}: files of several types ({', '.join(kinds)}); choose one with a pattern, such"
            f" as {Path(path) / '*'}{kinds[0]}."
        )
    return files


def source_folder(path: str) -> Path:
    """The folder of a path: the file's folder, or the part before a pattern."""
    spelled = Path(path).expanduser()
    if spelled.is_dir():
        return spelled
    fixed = Path(spelled.anchor)
    for part in spelled.parts[len(fixed.parts) : -1]:
        name = re.sub(r"\[([*?[])\]", r"\1", part)
        if glob.escape(name) != part or _RANGE.search(part):
            break
        fixed /= name
    return fixed


def _expand(pattern: str) -> list[Path]:
    match = _RANGE.search(pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match.groups()
    if int(first) > int(last):
        raise WingsError(f"{pattern}: the range {match.group()} is descending; swap its ends.")
    names = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [path for name in names for path in _expand(f"{before}{name}{after}")]


def _all_there(path: str, files: list[Path]) -> list[Path]:
    missing = [one for one in files if not one.is_file()]
    if missing:
        raise WingsError(f"{path}: {len(missing)} of {len(files)} files are missing: {missing[0]}.")
    return files
