"""Files that a user of the chat adds to a turn, as parts of a message."""

from typing import Any

from transformers import ProcessorMixin

from wings.errors import WingsError
from wings.processing.audio_reader import load_audio
from wings.processing.image_limits import ImageLimits
from wings.processing.image_reader import load_image
from wings.processing.processor import WingsProcessor
from wings.processing.video_input import VideoInput
from wings.processing.video_sampling import VideoSampling

Parts = list[dict[str, Any]]
_VERBS = {"image": "see", "audio": "hear"}


def picture_parts(processor: ProcessorMixin, path: str) -> Parts:
    """A picture as a part of a message; it is read, so that its file may go away.

    Raises:
        WingsError: a missing or invalid file, or a model that does not see.
    """
    _validate_sense(processor, "image", path)
    return [{"type": "image", "image": load_image(path)}]


def sound_parts(processor: ProcessorMixin, path: str) -> Parts:
    """A sound as a part of a message, at the rate of the model's encoder.

    Raises:
        WingsError: a missing or invalid file, or a model that does not hear.
    """
    _validate_sense(processor, "audio", path)
    assert isinstance(processor, WingsProcessor)
    rate = processor.senses["audio"].processor.rate
    return [{"type": "audio", "audio": (load_audio(path, rate), rate)}]


def video_parts(processor: ProcessorMixin, path: str) -> Parts:
    """A video as time stamps and images.

    Raises:
        WingsError: a missing or invalid file, or a model that does not see.
    """
    _validate_sense(processor, "image", path)
    if isinstance(processor, WingsProcessor):
        return processor.video_input.parts(path, {})
    return VideoInput(VideoSampling(), ImageLimits(), ("image",)).parts(path, {})


def _validate_sense(processor: ProcessorMixin, sense: str, path: str) -> None:
    # Composite models of transformers are given images alone.
    senses = getattr(processor, "senses", ("image",))
    if sense not in senses:
        raise WingsError(
            f"{path}: the model does not {_VERBS[sense]}; it has {', '.join(senses)}. Leave it out."
        )
