"""The files of a saved model: what is wrong with them, which one it is, and what to do."""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import WingsError, nearest

POINTER = b"version https://git-lfs.github.com/spec/"
INDEX = ".safetensors.index.json"
# Longer files, such as a tokenizer's, are parsed only after something failed.
LONG = 1 << 20
# JSON files that transformers reads; others in a folder are their owner's business.
READ = frozenset(
    {
        "added_tokens.json", "chat_template.json", "config.json", "generation_config.json",
        "preprocessor_config.json", "processor_config.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.json",
    }
)  # fmt: skip
AGAIN = "copy or download it again"
# Errors that are a wish to stop, not a fault of a file.
WISHES = (KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def reading(source: str | os.PathLike, noun: str) -> Iterator[None]:
    """One boundary for everything that is read from a folder or from the Hub.

    Args:
        source: a folder or a Hub id.
        noun: what is read, such as "Wings checkpoint".

    Raises:
        WingsError: whatever another library raises, as a sentence that names source and file.
    """
    folder = Path(source)
    if folder.is_dir():
        validate_files(folder, noun, thorough=False)
    elif is_path(source) and not folder.exists():
        raise WingsError(missing(source, noun, "check the path"))
    try:
        yield
    except WISHES:
        raise
    except WingsError as error:
        if str(source) in str(error):
            raise
        raise WingsError(f"'{source}': {error}") from error
    except BaseException as error:
        # tokenizers and safetensors are written in Rust: some of their errors are no Exception.
        if folder.is_dir():
            validate_files(folder, noun, thorough=True)
        raise WingsError(unread(source, noun, error)) from error


def unread(source: str | os.PathLike, noun: str, error: BaseException) -> str:
    """The sentence about a source that could not be read, though no file of it is damaged."""
    reason = " ".join(str(error).split()).rstrip(".")[:200] or "no reason given"
    kind = type(error).__name__
    if Path(source).is_dir():
        return (
            f"No {noun} can be read from the folder '{source}' ({kind}: {reason}): save it there "
            f"again, or name another folder."
        )
    if is_path(source):
        return missing(source, noun, "check the path")
    return (
        f"'{source}' is no folder here{near_folder(source)}, and no {noun} can be read from the "
        f"Hub under that name ({kind}: {reason}): check the name, the network and HF_HUB_OFFLINE."
    )


def is_path(source: str | os.PathLike) -> bool:
    """True for a name that no model on the Hub can have."""
    return os.path.isabs(source) or str(source).startswith((".", "~")) or str(source).count("/") > 1


def missing(source: str | os.PathLike, noun: str, remedy: str) -> str:
    """The sentence about a folder that is not there."""
    return (
        f"There is no folder '{source}'{near_folder(source)}, so no {noun} can be read: {remedy}."
    )


def near_folder(source: str | os.PathLike) -> str:
    """` (did you mean 'runs/two'?)` for a folder of a similar name at the same place, else ""."""
    path = Path(source)
    try:
        names = [one.name for one in path.parent.iterdir() if one.is_dir()]
    except OSError:
        return ""
    prefix = str(source).rstrip("/").removesuffix(path.name)
    close = nearest(path.name, names)
    return close.replace("mean '", f"mean '{prefix}", 1)


def inner_folder(source: str | os.PathLike, options: dict[str, Any]) -> str | os.PathLike:
    """The folder that is read: an argument `subfolder` of a folder here is taken out of `options`.

    A name on the Hub is returned as it is, as transformers looks there itself.
    """
    if options.get("subfolder") and Path(source).is_dir():
        return Path(source) / options.pop("subfolder")
    return source


def validate_has_owner(source: str | os.PathLike, noun: str) -> None:
    """Raises a `WingsError` for a name that is no folder and no `owner/name`; asks no network.

    Old language models have a bare name on the Hub; nothing new can have one.
    """
    if "/" not in str(source) and not Path(source).is_dir():
        remedy = "check the name; an id on the Hub is written as owner/name"
        raise WingsError(missing(source, noun, remedy))


def validate_files(folder: Path, noun: str, thorough: bool) -> None:
    """Raises a `WingsError` that names the first damaged or lost file of a folder.

    Args:
        folder: of the saved model.
        noun: what it holds.
        thorough: also parse long files.
    """
    if fault := file_fault(folder, thorough):
        raise WingsError(f"The {noun} in '{folder}' is damaged: {fault}.")


def file_fault(folder: Path, thorough: bool = True) -> str | None:
    """Describes the first damaged or lost file of a folder; None if there is none."""
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                return f"{path.name} is a link to a file that is gone; {AGAIN}"
            continue
        try:
            fault = fault_of(path, thorough)
        except OSError as error:
            fault = f"{path.name} cannot be read ({error.strerror}); change its permissions"
        if fault:
            return fault
    return None


def fault_of(path: Path, thorough: bool) -> str | None:
    """Describes what is wrong with one file; None if nothing is, as far as can be seen."""
    name, size = path.name, path.stat().st_size
    if path.suffix not in (".json", ".jinja", ".safetensors", ".bin", ".pt", ".txt", ".model"):
        return None
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            return f"{name} is a Git LFS pointer and not the file itself; run git lfs pull"
    if path.suffix == ".safetensors":
        return safetensors_fault(path)
    if (name in READ or name.endswith(INDEX)) and (thorough or size <= LONG):
        return json_fault(path)
    if path.suffix == ".jinja":
        try:
            is_text = "\0" not in path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            is_text = False
        return None if is_text else f"{name} is no UTF-8 text; {AGAIN}"
    return None


def safetensors_fault(path: Path) -> str | None:
    """Describes what is wrong with a safetensors file, from its header and its size alone."""
    name, size = path.name, path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or 8 + length > size:
            return f"{name} is cut off after {size:,} bytes; {AGAIN}"
        try:
            header = json.loads(file.read(length))
            ends = [int(e["data_offsets"][1]) for n, e in header.items() if n != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return f"{name} is no safetensors file; {AGAIN}"
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        return f"{name} has {size:,} bytes, but its header says {wanted:,}; {AGAIN}"
    return None


def json_fault(path: Path) -> str | None:
    """Describes what is wrong with a JSON file; an index must also find its files."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"{path.name} is no valid JSON ({error}); {AGAIN}"
    if not isinstance(content, dict):
        return f"{path.name} holds no JSON object; {AGAIN}"
    if not path.name.endswith(INDEX):
        return None
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        return f"{path.name} names no tensors; {AGAIN}"
    lost = sorted({str(s) for s in shards.values()} - {p.name for p in path.parent.iterdir()})
    if lost:
        return f"{lost[0]} is missing, which {path.name} names; {AGAIN}"
    return None
