"""Files of the demo's visitors: their kinds, and what a model takes, in words."""

import mimetypes
import tempfile
import wave
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wings.errors import WingsError
from wings.processing.item_encoder import AUDIO
from wings.processing.video_parts import VIDEO
from wings.sense import IMAGE

# Kinds of files by sense.
KINDS = {IMAGE: (IMAGE, VIDEO), AUDIO: (AUDIO,)}
QUESTIONS = {IMAGE: "What is in this picture?", AUDIO: "What do you hear?"}
TEXT_QUESTION = "What is a {} made of?"
# Endings that Python's own table lacks.
_ENDINGS = {".flac": AUDIO, ".oga": AUDIO, ".ogg": AUDIO, ".m4a": AUDIO, ".mkv": VIDEO}
_RATE = 16_000

Example = tuple[str, Sequence[str | Path]]


def kinds_of(senses: Collection[str]) -> list[str]:
    """The kinds of files that a model with these senses takes: image, video, audio."""
    return [kind for sense, kinds in KINDS.items() if sense in senses for kind in kinds]


def kind_of(path: str | Path, senses: Collection[str]) -> str:
    """The kind of a file by its name.

    Raises:
        WingsError: one that the model does not take.
    """
    known = kinds_of(senses)
    guess = (mimetypes.guess_type(str(path))[0] or "").partition("/")[0]
    kind = _ENDINGS.get(Path(path).suffix.lower(), guess)
    if kind == VIDEO and VIDEO not in known:
        # A browser's recording of a sound may be named so.
        kind = AUDIO
    if kind not in (IMAGE, VIDEO, AUDIO):
        kind = known[0]
    if kind not in known:
        raise WingsError(
            f"'{Path(path).name}' is of the kind {kind}, and this model takes {listed(known)}."
        )
    return kind


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def examples_of(senses: Collection[str]) -> list[Example]:
    """A question about a drawn image, one about a tone, as the model can, and one about text."""
    folder = Path(tempfile.mkdtemp(prefix="wings-demo-"))
    examples: list[Example] = []
    if IMAGE in senses:
        examples.append((QUESTIONS[IMAGE], [_draw(folder / "shapes.png")]))
    if AUDIO in senses:
        examples.append((QUESTIONS[AUDIO], [_play(folder / "tones.wav")]))
    return [*examples, (TEXT_QUESTION.format("picture" if IMAGE in senses else "sound"), [])]


def _draw(path: Path) -> Path:
    image = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 80, 140, 180), fill="royalblue")
    draw.ellipse((180, 70, 290, 180), fill="crimson")
    image.save(path)
    return path


def _play(path: Path) -> Path:
    """Writes two tones of half a second each, an octave apart."""
    time = np.arange(_RATE // 2) / _RATE
    # Without a click at their borders.
    envelope = np.sin(np.pi * time / time[-1]) ** 0.5
    tones = [envelope * np.sin(2 * np.pi * hertz * time) for hertz in (330, 660)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes((np.concatenate(tones) * 16_000).astype("<i2").tobytes())
    return path
