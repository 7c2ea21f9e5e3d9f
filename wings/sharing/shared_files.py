"""Chooses the files of a checkpoint that are shared, by kind; all others stay and are named."""

import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yaml import YAMLError

from wings.errors import WingsError
from wings.saved_code import JSON_CLASSES

from .local_paths import strip_json, strip_value, strip_yaml, validate_without_home

CARD, RECIPE, RESULT = "README.md", "recipe.yaml", "result.json"
# Of `wings merge`.
MERGED = "merged.json"
WEIGHTS = "model.safetensors"
HEADER_BYTES = 100 << 20
STRIPPED = (
    "config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", MERGED,
)  # fmt: skip
# A vocabulary may have a word such as /home.
VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "*.model")
AS_IT_IS = (*VOCABULARY, "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", CARD)
LARGE = ("*.safetensors", "*.safetensors.index.json")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json")
# Whatever loading a checkpoint may read, or tells of its training.
OF_MODEL = (*STRIPPED, RECIPE, RESULT, *VOCABULARY, "*.jinja", *LARGE)
# Patterns of what stays -> why; the first that fits is named.
STAYS = {
    "checkpoint-*": "training state",
    ".wings": "training state",
    "optimizer*": "training state",
    "scheduler.pt": "training state",
    "rng_state*": "training state",
    "trainer_state.json": "training state",
    "resume_state.json": "training state",
    "training_args.bin": "training state",
    ".*": "hidden",
    "answers.jsonl": "answers to held-out questions",
    "report*": "questions and answers of an evaluation",
    "runs": "logs",
    "events.out.*": "logs",
    "*.log": "logs",
    "*.jsonl": "data",
    "*.parquet": "data",
    "*.tar": "data",
    "*.csv": "data",
    "*.bin": "weights that are no safetensors",
    "*.pt": "weights that are no safetensors",
    "*.pth": "weights that are no safetensors",
    "*.py": "code that config.json does not name",
}
UNKNOWN = "of no known kind"


@dataclass(frozen=True)
class SharedFile:
    """A file that goes up.

    Attributes:
        name: path in the repository.
        source: file whose bytes go up; None if `content` has them.
        content: of a file that is made or changed for sharing.
        stat: size (bytes) and time of change (ns) of `source` when it was chosen.
    """

    name: str
    source: Path | None = None
    content: bytes | None = None
    stat: tuple[int, int] | None = None

    @classmethod
    def of(cls, name: str, source: Path) -> "SharedFile":
        """A file that goes up as it is."""
        return cls(name, source, None, stat_of(source))

    @property
    def size(self) -> int:
        """Bytes that go up."""
        return self.stat[0] if self.stat else len(self.content or b"")

    def read(self) -> bytes:
        """The bytes that go up."""
        return self.source.read_bytes() if self.source else self.content or b""

    def validate_unchanged(self) -> None:
        """Raises a `WingsError` if the file changed since it was chosen."""
        if self.source is not None and stat_of(self.source) != self.stat:
            raise WingsError(
                f"{self.source} changed while it was uploaded, so nothing was committed: wait"
                f" until the folder is written, and run the command again."
            )


@dataclass(frozen=True)
class Selection:
    """Files that go up, and the names of others with the reason why they stay."""

    files: list[SharedFile]
    left_out: dict[str, str]


def stat_of(path: Path) -> tuple[int, int]:
    """Size (bytes) and time of change (ns); a link is followed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def select_files(folder: Path, include: Sequence[str] = ()) -> Selection:
    """Chooses what is shared of a folder; nothing in it is changed.

    Args:
        folder: of a checkpoint.
        include: patterns of further files, relative to the folder, which go up as they are.

    Raises:
        WingsError: a pattern without a file, a file that cannot be read or parsed, or one that
            names the home folder.
    """
    files, left_out = [], {}
    extra = set(_included(folder, include))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name == "additional_chat_templates":
            files += [_as_it_is(f"{path.name}/{one.name}", one) for one in path.glob("*.jinja")]
        elif reason := _reason_to_stay(path):
            if path.name not in extra:
                left_out[path.name] = reason
        else:
            files.append(_shared(path))
    chosen = {file.name for file in files}
    files += [_as_it_is(name, folder / name) for name in sorted(extra - chosen)]
    return Selection(sorted(files, key=lambda file: file.name), left_out)


def _included(folder: Path, patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        parts = Path(pattern).parts
        is_inner = bool(parts) and not Path(pattern).is_absolute() and ".." not in parts
        found = [path for path in folder.glob(pattern) if path.is_file()] if is_inner else []
        inner = [path.relative_to(folder).as_posix() for path in found]
        if not inner:
            raise WingsError(
                f"--include {pattern}: no file of {folder} has that name; give a pattern relative"
                f" to the folder, such as 'assets/*.png'."
            )
        yield from inner


def _reason_to_stay(path: Path) -> str | None:
    """Says why an entry of a checkpoint's folder is not shared; None if it is."""
    name, folder = path.name, path.parent
    if path.is_file():
        if (folder / WEIGHTS).is_file() and SHARD.fullmatch(name):
            return f"{WEIGHTS} is read in its place"
        if name in (*STRIPPED, RECIPE, RESULT) or fits(name, (*AS_IT_IS, *LARGE)):
            return None
        if name.endswith(".py") and names_code(folder):
            return None
    for pattern, reason in STAYS.items():
        if fnmatch.fnmatchcase(name, pattern):
            return reason
    return UNKNOWN


def names_code(folder: Path) -> bool:
    """True if a JSON file names Python files that `trust_remote_code=True` runs."""
    found = [folder / name for name in JSON_CLASSES if (folder / name).is_file()]
    return any(_read_json(path).get("auto_map") for path in found)


def files_of(folder: Path) -> list[Path]:
    """Lists the files of a folder that are shared, as they are."""
    templates = folder.glob("additional_chat_templates/*.jinja")
    return [path for path in folder.iterdir() if not _reason_to_stay(path)] + sorted(templates)


def fits(name: str, patterns: Sequence[str]) -> bool:
    """True if a name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _shared(path: Path) -> SharedFile:
    name = path.name
    if name in STRIPPED:
        return SharedFile(name, content=strip_json(_text(path)).encode())
    if name == RECIPE:
        try:
            return SharedFile(name, content=strip_yaml(_text(path)).encode())
        except YAMLError as error:
            raise WingsError(f"{path} cannot be read as YAML: restore it, or remove it.") from error
    if name == RESULT:
        return SharedFile(name, content=shared_result(_read_json(path)).encode())
    if name.endswith(".safetensors"):
        with path.open("rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), HEADER_BYTES)
            validate_without_home(name, file.read(length))
        return SharedFile.of(name, path)
    return _as_it_is(name, path)


def _as_it_is(name: str, path: Path) -> SharedFile:
    if path.stat().st_size <= HEADER_BYTES and not fits(name, VOCABULARY):
        validate_without_home(name, path.read_bytes())
    return SharedFile.of(name, path)


def shared_result(result: dict) -> str:
    """`result.json` without paths; sentences on skipped records quote data, so they are counted."""
    skipped = result.get("skipped")
    if isinstance(skipped, list):
        result = {**result, "skipped": len(skipped)}
    return json.dumps(strip_value(result, sentences=True), indent=1) + "\n"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WingsError(f"{path} is no UTF-8 text: write it again.") from error


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(_text(path))
    except (OSError, ValueError) as error:
        raise WingsError(f"{path} cannot be read as JSON ({error}): write it again.") from error
    return value if isinstance(value, dict) else {}
