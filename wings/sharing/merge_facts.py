"""Facts of a merged model for its card, read from merged.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.errors import WingsError

from .shared_files import MERGED


@dataclass(frozen=True)
class Merge:
    """The sources and the method that `wings merge` made a model of.

    Attributes:
        method: by its name.
        base: name of the LLM.
        children: names of the models that were merged with it.
        rows: parameters by what they belong to: the method, the LLM or a child.
        release: of this package.
    """

    method: str
    base: str
    children: Sequence[str]
    rows: Mapping[str, str]
    release: str


def read_merge(folder: Path) -> Merge | None:
    """Reads merged.json of a folder; None without one.

    Raises:
        WingsError: a file that `wings merge` did not write.
    """
    path = folder / MERGED
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        base, children = fields["base"], fields["children"]
        rows = {
            name: described(one["parameters"])
            for name, one in (
                (fields["method"], fields),
                (base["name"], base),
                *((child["name"], child) for child in children),
            )
        }
        return Merge(
            fields["method"],
            base["name"],
            [child["name"] for child in children],
            rows,
            fields["wings_version"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WingsError(
            f"{path} is not what wings merge writes ({type(error).__name__}: {error}): merge again."
        ) from error


def described(parameters: Mapping[str, Any]) -> str:
    """`weight 0.75, density 0.2`; a value with filters as `0.5 for mlp, else 1`."""
    return ", ".join(f"{name} {_value(value)}" for name, value in parameters.items()) or "-"


def _value(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:g}" if isinstance(value, float) else str(value)
    parts = [
        f"{_value(one['value'])} for {one['filter']}"
        if "filter" in one
        else f"else {_value(one['value'])}"
        for one in value
    ]
    return ", ".join(parts)
