"""Source files: what one `path` of a recipe stands for: a file, a folder, a pattern."""

import glob
import re
from pathlib import Path

from wings.errors import WingsError

ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".tar")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def source_files(path: str) -> list[Path]:
    """The files of a path, in an order that depends on their names alone.

    Args:
        path: a file, a folder (its files of records, which must be of one kind), a glob pattern
            (`*`, `?`, `[..]`, `**`), or a range (`shards-{000..012}.tar`), each of which must be
            there.

    Raises:
        WingsError: nothing there, or files of different kinds.
    """
    spelled = str(Path(path).expanduser())
    if Path(spelled).is_file():
        return [Path(spelled)]
    if _RANGE.search(spelled):
        return _all_there(path, _expand(spelled))
    if Path(spelled).is_dir():
        found = sorted(one for one in Path(spelled).iterdir() if one.suffix.lower() in ENDINGS)
    elif glob.has_magic(spelled):
        found = sorted(Path(one) for one in glob.glob(spelled, recursive=True))
        found = [one for one in found if one.is_file()]
    else:
        raise WingsError(
            f"{path}: no such data file; set its path in the recipe's data list (a dataset of the"
            " Hub also needs its split, as split: train)."
        )
    if not found:
        raise WingsError(f"{path}: no data files there; they end in {', '.join(ENDINGS)}.")
    kinds = sorted({one.suffix.lower() for one in found})
    if len(kinds) > 1:
        raise WingsError(
            f"{path}: files of several kinds ({', '.join(kinds)}); say which with a pattern, as"
            f" {Path(path) / '*'}{kinds[0]}."
        )
    return found


def source_folder(path: str) -> Path:
    """The folder of a path: the file's own, or what stands before a pattern."""
    spelled = Path(path).expanduser()
    if spelled.is_dir():
        return spelled
    fixed = Path(spelled.anchor)
    for part in spelled.parts[len(fixed.parts) : -1]:
        if glob.has_magic(part) or _RANGE.search(part):
            break
        fixed /= part
    return fixed


def _expand(pattern: str) -> list[Path]:
    found = _RANGE.search(pattern)
    if found is None:
        return [Path(pattern)]
    first, last = found.groups()
    if int(first) > int(last):
        raise WingsError(f"{pattern}: the range {found.group()} runs backwards.")
    names = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for name in names for path in _expand(f"{before}{name}{after}")]


def _all_there(path: str, files: list[Path]) -> list[Path]:
    missing = [one for one in files if not one.is_file()]
    if missing:
        raise WingsError(f"{path}: {len(missing)} of {len(files)} files are missing: {missing[0]}.")
    return files
