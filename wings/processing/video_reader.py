"""Reads a video from any source: a few of its frames, each with its time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch import Tensor

from wings.errors import WingsError
from wings.extras import require

from .image_limits import ImageLimits, VideoFileLimits
from .video_file import VideoFile, header_length
from .video_sampling import VideoSampling
from .web_file import fetch_file, is_address, open_file, too_many_bytes


class MissingVideo(WingsError):
    """There is no such file."""


class Frame(NamedTuple):
    """One frame: seconds from the start of its video, and a source for `load_image`."""

    seconds: float
    image: Any


def load_video(
    source: Any, sampling: VideoSampling | None = None, limits: ImageLimits | None = None
) -> list[Frame]:
    """Loads the frames of one video that `sampling` takes, in order; its sound is not read.

    Args:
        source: a path of a regular file, URL or data URI; the bytes of a video file (mp4, mov, mkv,
            webm, avi, gif and others); a mapping with `bytes` or `path` (how parquet files hold
            videos); a list of frames, each as `load_image` takes it; a uint8 array [frames, height,
            width, 1, 3 or 4] or tensor [frames, 1, 3 or 4, height, width]; a decoder of torchcodec,
            as a Video column of `datasets` gives.
        sampling: which frames; default: `VideoSampling()`.
        limits: what the video may cost; default: `ImageLimits()`.

    Raises:
        WingsError: nothing there, cut off, no video, no frames, beyond the limits, or a package
            missing; names the source.
    """
    sampling, limits = sampling or VideoSampling(), limits or ImageLimits()
    source = _held(source)
    name = describe_video(source)
    if is_frames(source):
        times, seconds = _even(len(source), sampling.fps)
        if not times:
            raise WingsError(f"{name} has no frames; give one or more.")
        return [Frame(times[n], source[n]) for n in sampling.choose(times, seconds)]
    try:
        if hasattr(source, "get_frames_at"):
            numbers = sampling.choose(*_even(len(source), source.metadata.average_fps))
            found = source.get_frames_at(indices=numbers)
            return [*map(Frame, found.pts_seconds.tolist(), found.data)]
        with _opened(source, limits) as file:
            video = VideoFile(file, limits)
            numbers = sampling.choose(video.times, video.seconds)
            return [*map(Frame, [video.times[n] for n in numbers], video.decode(numbers))]
    except _NotAVideo:
        raise
    except WingsError as error:
        raise WingsError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise MissingVideo(f"{name} does not exist.") from error
    # Decoders of damaged files raise nearly anything.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        reason = " ".join(reason.split()).rstrip(".")[:300] or type(error).__name__
        raise WingsError(
            f"{name} is not a whole, readable video ({reason}); give an mp4, mkv, webm or avi file."
        ) from error


def count_frames(
    source: Any, sampling: VideoSampling | None = None, limits: ImageLimits | None = None
) -> int:
    """Number of frames that `load_video` takes, without decoding; their bound where it is unknown.

    Args:
        source: as for `load_video`.
        sampling: likewise.
        limits: likewise.
    """
    sampling = sampling or VideoSampling()
    try:
        source = _held(source)
        if is_frames(source):
            return sampling.count(len(source), len(source) / (sampling.fps or 1))
        if sampling.fps is None or (isinstance(source, str) and is_address(source)):
            # Nearly all videos have more frames than are taken.
            return sampling.max_frames
        with _opened(source, limits or ImageLimits()) as file:
            frames, seconds = header_length(file)
        return sampling.count(frames, seconds) if seconds else sampling.max_frames
    # Whoever reads the video says what is wrong with it.
    except Exception:
        return sampling.max_frames


def is_frames(source: Any) -> bool:
    """True for a list of frames, or an array of them."""
    return isinstance(source, list | tuple | np.ndarray | Tensor)


def describe_video(source: Any) -> str:
    """A name of a source for messages, such as "Video 'a.mp4'"."""
    match source:
        case str() | Path():
            return f"Video {str(source)[:200]!r}"
        case bytes() | bytearray() | memoryview():
            return f"Video of {len(source)} bytes"
        case np.ndarray() | Tensor():
            return f"Video array {source.dtype} {list(source.shape)}"
        case list() | tuple():
            return f"A list of {len(source)} frames"
    return f"{type(source).__name__} {source!r}"[:200]


class _NotAVideo(WingsError):
    """The source is of a type that holds no video."""


def _held(source: Any) -> Any:
    """The bytes or the path that a mapping holds; other sources as they are."""
    if not isinstance(source, Mapping):
        return source
    held = source.get("bytes") or source.get("path")
    if held is None:
        raise WingsError(
            "A video given as a mapping needs 'bytes' or 'path', and this one has "
            f"{', '.join(map(repr, source)) or 'nothing'}."
        )
    return held


def _even(count: int, rate: float | None) -> tuple[list[float], float]:
    """The times of frames that follow each other at one rate, and seconds to the last one's end."""
    rate = rate or 1
    return [number / rate for number in range(count)], count / rate


@contextmanager
def _opened(source: Any, limits: ImageLimits) -> Iterator[bytes | BinaryIO]:
    """The bytes of a video file, or an open one."""
    require("video")
    bounds = VideoFileLimits(limits)
    if isinstance(source, str) and is_address(source):
        yield fetch_file(source, bounds)
    elif isinstance(source, str | Path):
        with open_file(source, bounds) as file:
            yield file
    elif isinstance(source, bytes | bytearray | memoryview):
        if memoryview(source).nbytes > bounds.most_bytes:
            raise too_many_bytes(memoryview(source).nbytes, bounds)
        yield bytes(source)
    else:
        raise _NotAVideo(
            f"{describe_video(source)} is not a video; give a path, the bytes of a file or a list "
            "of frames."
        )
