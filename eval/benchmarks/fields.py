"""Fields of picture benchmarks, with what is missing in a sentence, and turns made of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest

SHORT = "Answer with a single word or phrase."
SIGNATURES = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"RI": "webp"}


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        WingsError: no such file, or no JSON in it.
    """
    path = Path(path)
    if not path.is_file():
        raise WingsError(f"there is no file {path}; give the benchmark's own file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WingsError(f"{path} is not JSON ({error}); give the benchmark's own file") from error


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """`record[name]`, which must be of a type.

    Raises:
        WingsError: no mapping, no such field, or another type in it; names `where`.
    """
    if not isinstance(record, Mapping):
        raise WingsError(f"{where} is no record but {record!r:.60}; give the benchmark's own file")
    if name not in record:
        raise WingsError(
            f"{where} has no field {name!r}{nearest(name, record)}; give the benchmark's own file"
        )
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WingsError(f"{where}: {name} is {value!r:.60}; it must be of type {kind.__name__}")
    return value


def texts(record: Any, name: str, where: str) -> list[str]:
    """`record[name]`, which must be a list of texts that is not empty."""
    values = field(record, name, list, where)
    if not values or not all(isinstance(value, str) for value in values):
        raise WingsError(f"{where}: {name} is {values!r:.60}; it must be a list of texts")
    return values


def turn(question: str, pictures: Sequence[str]) -> tuple[dict, ...]:
    """The user's one message: pictures first, or nothing but text where there is none."""
    if not pictures:
        return ({"role": "user", "content": question},)
    shown: list[dict] = [{"type": "image", "image": picture} for picture in pictures]
    return ({"role": "user", "content": [*shown, {"type": "text", "text": question}]},)


def existing(path: Path, where: str) -> str:
    """The path of a picture that is there.

    Raises:
        WingsError: it is not; names `where`.
    """
    if not path.is_file():
        raise WingsError(f"{where}: there is no picture {path}; give the folder of the pictures")
    return str(path.resolve())


def data_uri(picture: bytes) -> str:
    """A picture's file as text, which stands in a record itself."""
    kind = SIGNATURES.get(picture[:2], "png")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
