"""Flags of countries with their capitals and continents, from the npm package `world-countries`.

`npm pack world-countries` followed by `tar xzf world-countries-*.tgz` gives its folder, `package`
(ODbL 1.0).
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wings.errors import WingsError
from wings.examples.drawings import Drawing, raster_svg

GET = "run: npm pack world-countries && tar xzf world-countries-*.tgz"
COUNT = 48  # the largest countries that can be asked for


@dataclass(frozen=True)
class Flag(Drawing):
    """The flag of a country; `code` is the country's, `group` its continent.

    Attributes:
        file: its SVG.
        capital: the country's.
        capitals: of other countries of the continent.
    """

    file: Path
    capital: str
    capitals: tuple[str, ...]

    def raster(self, side: int) -> Image.Image:
        """The flag as RGBA, in the middle of a transparent square of `side` x `side` pixels."""
        square = Image.new("RGBA", (side, side))
        drawn = raster_svg(self.file, side, round(side * 2 / 3))
        square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
        return square


def read_flags(package: Path | None) -> list[Flag]:
    """The largest members of the United Nations with a name of one word.

    A capital that shares a word with its country is left out, as it would be given away. Names are
    spelled without accents.

    Args:
        package: the unpacked package.

    Raises:
        WingsError: the package is not given, or lacks a file (how to get it).
    """
    if package is None:
        raise WingsError(f"--flags is missing, and this study asks for flags; {GET}.")
    try:
        entries = json.loads((package / "countries.json").read_text(encoding="utf-8"))
        members = [entry for entry in entries if entry["unMember"]]
        flags = [
            flag
            for entry in sorted(members, key=lambda entry: -entry["area"])
            if (flag := _flag(entry, members, package)) is not None
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WingsError(
            f"--flags: {package} has no readable countries.json ({type(error).__name__}); {GET} and"
            " name the folder 'package'."
        ) from error
    if missing := [flag.file for flag in flags[:COUNT] if not flag.file.exists()]:
        raise WingsError(f"--flags: {missing[0]} is missing; {GET}.")
    return flags[:COUNT]


def _flag(entry: Mapping[str, Any], members: list[Any], package: Path) -> Flag | None:
    name, capital = _name(entry), _capital(entry)
    if not capital or " " in name or set(capital.lower().split()) & {name.lower()}:
        return None
    near = [one for one in members if one["region"] == entry["region"] and one is not entry]
    capitals = tuple(found for one in near if (found := _capital(one)))
    file = package / "data" / f"{entry['cca3'].lower()}.svg"
    return Flag(entry["cca3"], name, entry["region"], file, capital, capitals)


def _name(entry: Mapping[str, Any]) -> str:
    return plain(entry["name"]["common"])


def _capital(entry: Mapping[str, Any]) -> str:
    return plain(entry["capital"][0]) if entry["capital"] else ""


def plain(name: str) -> str:
    """A name without accents."""
    parts = unicodedata.normalize("NFKD", name)
    return "".join(part for part in parts if not unicodedata.combining(part))
