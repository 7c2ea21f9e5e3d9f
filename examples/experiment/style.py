"""A second set of drawings of the same concepts, for a test of style, in Iconify's format.

`npm pack @iconify-json/twemoji` followed by `tar xzf iconify-json-twemoji-*.tgz` gives such a
folder, `package`. Twemoji's drawings are CC BY 4.0; pictures of them are never published.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wings.errors import WingsError
from wings.examples.drawings import Drawing

GET = "run: npm pack @iconify-json/twemoji && tar xzf iconify-json-twemoji-*.tgz"


@dataclass(frozen=True)
class Redrawn(Drawing):
    """A drawing of another set; `file` is its SVG."""

    file: Path

    @property
    def svg(self) -> Path:
        """The drawing's file."""
        return self.file


def redrawn(drawings: Sequence[Drawing], package: Path, folder: Path) -> list[Redrawn]:
    """The drawings of another set with the same code points.

    Args:
        drawings: of OpenMoji.
        package: the unpacked package, with `icons.json` and `chars.json`.
        folder: created; gets an SVG file of each drawing.

    Raises:
        WingsError: the package lacks its files (how to get it), or has none of the drawings.
    """
    try:
        icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        names = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WingsError(
            f"--style: {package} has no readable icons.json and chars.json; {GET} and name the"
            " folder 'package'."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for drawing in drawings:
        code = drawing.code.lower()
        name = names.get(code) or names.get(f"{code}-fe0f")
        if icon := icons["icons"].get(name):
            sides = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
            box = "0 0 {} {}".format(*sides)
            text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            file = folder / f"{drawing.code}.svg"
            file.write_text(text, encoding="utf-8")
            found.append(Redrawn(drawing.code, drawing.name, drawing.group, file))
    if not found:
        raise WingsError(f"--style: {package} has none of the drawings; use Twemoji: {GET}.")
    return found
