"""The report of an evaluation: one self-contained HTML file, and the same figures as JSON."""

import base64
import io
import json
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from PIL import Image

from wings.output_folder import OutputFolder
from wings.processing.audio_reader import load_audio
from wings.processing.image_reader import load_image

HTML, JSON = "report.html", "report.json"
SIDE = 256  # pixels of a sample's picture
RATE, SECONDS = 16_000, 10  # of a sample's sound: samples per second, and its longest
SAMPLES = 10  # of each kind of question
TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Section:
    """One measurement in a report.

    Attributes:
        title: a few words.
        sentence: explains the figures.
        rows: the table, headers first; empty for none.
        figure: the plot, at most about 4 inches wide, so that it is readable on a phone.
    """

    title: str
    sentence: str
    rows: Sequence[Sequence[str]] = ()
    figure: Figure | None = None


@dataclass(frozen=True)
class Sample:
    """One item with the answers of both models.

    Attributes:
        kind: of the item.
        turns: role and text of each turn, and kind and source of each picture and sound.
        answer: the reference.
        before: the LLM's answer.
        after: the model's answer.
        right: True for each of the two that is right.
    """

    kind: str
    turns: Sequence[tuple[str, str, Sequence[tuple[str, Any]]]]
    answer: str
    before: str
    after: str
    right: tuple[bool, bool]


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: one line.
        about: models, date, device and so on, as shown.
        notes: sentences on skipped measurements or on how to read the report.
        sections: the measurements, in order.
        samples: answers side by side, by title.
        document: the content of report.json.
        verdict: the most important figures, a sentence or more a line.
    """

    title: str
    about: Mapping[str, str]
    notes: Sequence[str]
    sections: Sequence[Section]
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    verdict: Sequence[str] = ()

    def html(self) -> str:
        """One page with embedded pictures, sounds and plots; model output is escaped."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template(TEMPLATE)
        shown = {"picture": render_picture, "sound": render_sound}
        return template.render(report=self, render_figure=render_figure, **shown)

    def save(self, folder: OutputFolder) -> None:
        """Writes `report.json` and `report.html`, each atomically."""
        text = json.dumps(self.document, indent=1, ensure_ascii=False, default=str)
        for name, content in ((JSON, text + "\n"), (HTML, self.html())):
            # Answers may hold odd characters that no encoding has.
            folder.write(name, content.encode("utf-8", "backslashreplace").decode("utf-8"))


def render_figure(figure: Figure) -> str:
    """A plot as an SVG data URI. Letters are paths, so no font is needed."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "wings", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", stream.getvalue())


def render_picture(source: Any) -> str:
    """A sample's picture as a PNG data URI; small drawings are enlarged without blurring."""
    image = load_image(source)
    image.thumbnail((SIDE, SIDE))
    if max(image.size) <= SIDE // 2:
        times = SIDE // max(image.size)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return _data_uri("image/png", stream.getvalue())


def render_sound(source: Any) -> str:
    """A sample's sound as a WAV data URI of one channel, at most its first `SECONDS`."""
    samples = load_audio(source, RATE)[: SECONDS * RATE]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return _data_uri("audio/wav", stream.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
