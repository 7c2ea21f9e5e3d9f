"""Validated access to fields of benchmark records, and messages made of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest

SHORT = "Answer with a single word or phrase."
SIGNATURES = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"RI": "webp"}


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        WingsError: a missing or invalid file.
    """
    path = Path(path)
    if not path.is_file():
        raise WingsError(f"There is no file {path}; pass the benchmark's own file.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WingsError(f"{path} is not JSON ({error}); pass the benchmark's own file.") from error


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """`record[name]`, checked for its type.

    Raises:
        WingsError: no mapping, a missing field, or another type; the message names `where`.
    """
    if not isinstance(record, Mapping):
        raise WingsError(f"{where} is no record but {record!r:.60}; pass the benchmark's own file.")
    if name not in record:
        raise WingsError(
            f"{where} has no field {name!r}{nearest(name, record)}; pass the benchmark's own file."
        )
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WingsError(f"{where}: {name} is {value!r:.60}; it must be of type {kind.__name__}.")
    return value


def texts(record: Any, name: str, where: str) -> list[str]:
    """`record[name]`, checked to be a non-empty list of texts."""
    values = field(record, name, list, where)
    if not values or not all(isinstance(value, str) for value in values):
        raise WingsError(f"{where}: {name} is {values!r:.60}; it must be a list of texts.")
    return values


def turn(question: str, pictures: Sequence[str]) -> tuple[dict, ...]:
    """The user's message: pictures first; a plain string if there are none."""
    if not pictures:
        return ({"role": "user", "content": question},)
    parts: list[dict] = [{"type": "image", "image": picture} for picture in pictures]
    return ({"role": "user", "content": [*parts, {"type": "text", "text": question}]},)


def existing(path: Path, where: str) -> str:
    """The absolute path of an existing picture.

    Raises:
        WingsError: a missing file; the message names `where`.
    """
    if not path.is_file():
        raise WingsError(f"{where}: there is no picture {path}; pass the folder of the pictures.")
    return str(path.resolve())


def data_uri(picture: bytes) -> str:
    """The bytes of a picture file as a data URI, to embed it in a record."""
    kind = SIGNATURES.get(picture[:2], "png")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
