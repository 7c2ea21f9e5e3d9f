"""Videos in messages and texts, turned into time stamps and images before anything is encoded."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .conversation import IMAGE_TOKEN, OF_OPENAI, source_of
from .image_limits import ImageLimits
from .video_reader import load_video
from .video_sampling import VideoSampling, time_stamp

VIDEO = "video"
VIDEO_TOKEN = "<video>"
_TOKENS = re.compile(f"{IMAGE_TOKEN}|{VIDEO_TOKEN}")

Parts = list[dict[str, Any]]


def video_parts(
    source: Any, sampling: VideoSampling | None = None, limits: ImageLimits | None = None
) -> Parts:
    """The frames of a video as parts of a message: a time stamp and an image each.

    Args:
        source: as `load_video` takes it.
        sampling: likewise.
        limits: likewise.

    Returns:
        `[{"type": "text", "text": "[0:01.5]"}, {"type": "image", "image": ...}, ...]`.

    Raises:
        WingsError: as `load_video`.
    """
    parts: Parts = []
    for seconds, image in load_video(source, sampling, limits):
        parts.append({"type": "text", "text": time_stamp(seconds)})
        parts.append({"type": "image", "image": image})
    return parts


def replace_videos(messages: Any, parts_of: Callable[[Mapping], Parts]) -> Any:
    """The messages with `parts_of(part)` in place of each part that is a video.

    What is no list of messages is returned as it is, for whoever reads it to refuse.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        return messages
    return [_with_parts(message, parts_of) for message in messages]


def videos_apart(messages: Any) -> int:
    """The number of videos of messages that have no source."""
    found: Parts = []

    def note(part: Mapping) -> Parts:
        found.extend([dict(part)] if source_of(part, VIDEO) is None else [])
        return []

    replace_videos(messages, note)
    return len(found)


def frames_in_texts(
    texts: Sequence[str], images: Iterable[Any], videos: Iterable[Parts]
) -> tuple[list[str], list[Any]]:
    """Texts with time stamps and one `<image>` a frame in place of each `<video>`.

    Args:
        texts: with one `<image>` an image and one `<video>` a video.
        images: sources of the images, in reading order.
        videos: `video_parts` of the videos, in reading order.

    Returns:
        the texts, and the sources of all their images in reading order.
    """
    sources: list[Any] = []
    given, waiting = iter(images), iter(videos)

    def written(match: re.Match[str]) -> str:
        if match[0] == IMAGE_TOKEN:
            sources.append(next(given))
            return IMAGE_TOKEN
        parts = next(waiting)
        sources.extend(part["image"] for part in parts if part["type"] == "image")
        return "".join(part.get("text", IMAGE_TOKEN) for part in parts)

    return [_TOKENS.sub(written, text) for text in texts], sources


def flatten_videos(videos: Any) -> list:
    """Lists the sources of one video, None, or any nesting of lists, in reading order.

    A list of images or of arrays of one image is one video; a list of paths is several.
    """
    if not isinstance(videos, list | tuple):
        return [] if videos is None else [videos]
    if videos and all(map(_is_frame, videos)):
        return [videos]
    return [*chain.from_iterable(map(flatten_videos, videos))]


def _is_frame(source: Any) -> bool:
    is_array = isinstance(source, np.ndarray | Tensor) and source.ndim <= 3
    return is_array or isinstance(source, Image.Image)


def _with_parts(message: Any, parts_of: Callable[[Mapping], Parts]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple) or not any(map(_is_video, content)):
        return message
    pieces = [parts_of(part) if _is_video(part) else [part] for part in content]
    return {**message, "content": [*chain.from_iterable(pieces)]}


def _is_video(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and (
        kind == VIDEO or (OF_OPENAI.get(kind) == VIDEO and bool(part.get(kind)))
    )
