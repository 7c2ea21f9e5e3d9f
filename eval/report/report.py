"""The report: one HTML file that opens anywhere without a network, and the same figures as JSON."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from PIL import Image

from wings.processing.image_processor import load_image

from .samples import Sample
from .section import Section

HTML, JSON = "report.html", "report.json"
SIDE = 256  # pixels of a sample's picture
TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        title: one line.
        about: what a reader asks first: models, date, device; as they are shown.
        notes: sentences on what was not measured, or how to read it.
        sections: the measurements, in order.
        samples: answers side by side, by title.
        document: everything, for report.json.
    """

    title: str
    about: Mapping[str, str]
    notes: Sequence[str]
    sections: Sequence[Section]
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """One page with its pictures and plots in it; what models said is escaped."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template(TEMPLATE).render(report=self, drawn=drawn, picture=picture)

    def save(self, folder: Path) -> None:
        """Writes `report.json` and `report.html`; neither is ever half there."""
        text = json.dumps(self.document, indent=1, ensure_ascii=False, default=str)
        for name, content in ((JSON, text + "\n"), (HTML, self.html())):
            writing = folder / f"writing-{name}"
            writing.write_text(content, encoding="utf-8")
            writing.replace(folder / name)


def drawn(figure: Figure) -> str:
    """A plot as a data URI: an SVG whose letters are shapes, so it needs no font."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "wings", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", stream.getvalue())


def picture(source: Any) -> str:
    """A sample's picture as a data URI; a small drawing is enlarged without being blurred."""
    image = load_image(source)
    image.thumbnail((SIDE, SIDE))
    if max(image.size) <= SIDE // 2:
        times = SIDE // max(image.size)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return data_uri("image/png", stream.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """`data:KIND;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
