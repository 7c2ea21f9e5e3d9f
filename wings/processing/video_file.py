"""`VideoFile`: the frames of a video file, decoded with PyAV."""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from wings.errors import WingsError

from .image_limits import ImageLimits

# Of FFmpeg's readers, those that open nothing beside the file. Playlists would open any address.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,ogg,flv,asf,gif,apng"
# A file that ends before this share of the length in its header is cut off.
_WHOLE = 0.9


class VideoFile:
    """The frames of one video file.

    Opening reads the file once without decoding, to know when each frame appears.

    Args:
        source: the bytes of a file, or an open one.
        limits: what the video may cost.

    Attributes:
        times: seconds from the first frame at which each frame appears, ascending.
        seconds: from the first frame to the end of the last one.

    Raises:
        WingsError: no frames, cut off, or frames beyond the limits.
        av.FFmpegError: no video file that can be read.
    """

    def __init__(self, source: bytes | BinaryIO, limits: ImageLimits) -> None:
        self._source, self._limits = source, limits
        with _open(self._source) as (container, stream):
            self._width, self._height = stream.codec_context.width, stream.codec_context.height
            self._check_pixels(self._width, self._height)
            ends, frames = [0.0], []
            for packet in container.demux():
                # The last one of each stream is empty.
                start = packet.dts if packet.pts is None else packet.pts
                if start is None or packet.time_base is None:
                    continue
                ends.append(float((start + (packet.duration or 0)) * packet.time_base))
                # Frames outside the part that an editor kept are decoded and not shown.
                if packet.stream.index == stream.index and not packet.is_discard:
                    frames.append((start, packet.duration or 0, packet.is_keyframe))
            if not frames:
                raise ValueError("it has no frames with a time")
            length = (container.duration or 0) / 1e6
            if max(ends) - (container.start_time or 0) / 1e6 < _WHOLE * length:
                raise ValueError("it is cut off")
            frames.sort()
            self._unit, first = float(stream.time_base), frames[0][0]
            self._starts = [start for start, _, _ in frames]
            self._keys = [start for start, _, is_key in frames if is_key]
            self.times = [(start - first) * self._unit for start in self._starts]
            self.seconds = self.times[-1] + frames[-1][1] * self._unit

    def decode(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        """Yields frames, upright, RGB or RGBA.

        Args:
            numbers: of the frames, ascending.

        Raises:
            WingsError: more frames or pixels than the limits allow.
            ValueError, av.FFmpegError: damaged frames.
        """
        self._check_cost(numbers)
        first = self._starts[0]
        frames, frame, at = self._frames(first), None, first
        for number in numbers:
            wanted = self._starts[number]
            key = self._key_before(wanted)
            if key > at:
                frames, frame = self._frames(key), None
                if (found := next(frames, None)) is None or (found.pts or 0) > key:
                    # This format finds no key frames: all frames are decoded.
                    self._keys = []
                    self._check_cost(numbers)
                    frames, at = self._frames(first), first
                else:
                    frame, at = found, key
            while frame is None or at < wanted:
                if (found := next(frames, None)) is None:
                    break
                frame, at = found, wanted if found.pts is None else found.pts
            if frame is None or frame.is_corrupt:
                raise ValueError(f"frame {number} is damaged")
            yield _to_image(frame)

    def _frames(self, key: int) -> Iterator[Any]:
        """The frames from a key frame on, or from an earlier one."""
        with _open(self._source) as (container, stream):
            # For frames that are larger than the header says.
            stream.codec_context.options = {"max_pixels": str(self._limits.image_pixels)}
            if key > self._starts[0]:
                container.seek(key, stream=stream)
            yield from container.decode(stream)

    def _key_before(self, start: int) -> int:
        """The start of the newest frame up to `start` that is decoded without others."""
        earlier = bisect_right(self._keys, start)
        return self._keys[earlier - 1] if earlier else self._starts[0]

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.image_pixels:
            raise WingsError(
                f"It has {width:,} x {height:,} pixels, more than image_pixels allows, "
                f"{self._limits.image_pixels:,}."
            )

    def _check_cost(self, numbers: Sequence[int]) -> None:
        limits, pixels = self._limits, len(numbers) * self._width * self._height
        if pixels > limits.video_pixels:
            raise WingsError(
                f"{len(numbers)} frames of {self._width:,} x {self._height:,} are {pixels:,} "
                f"pixels, more than video_pixels allows, {limits.video_pixels:,}; lower max_frames."
            )
        decoded, done = 0, 0
        for number in numbers:
            key = bisect_right(self._starts, self._key_before(self._starts[number])) - 1
            decoded += number + 1 - max(key, done)
            done = number + 1
        if decoded > limits.video_frames:
            raise WingsError(
                f"{decoded:,} of its frames must be decoded to reach {len(numbers)}, more than "
                f"video_frames allows, {limits.video_frames:,}; write it with more key frames."
            )


def header_length(source: bytes | BinaryIO) -> tuple[int, float]:
    """Frames and seconds of a video file by its header; 0 seconds where it has no length."""
    with _open(source) as (container, stream):
        seconds = (container.duration or 0) / 1e6
        return stream.frames or round(seconds * float(stream.average_rate or 0)), seconds


@contextmanager
def _open(source: bytes | BinaryIO) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of frames."""
    # Not at the top: an optional package.
    import av

    if not isinstance(source, bytes):
        source.seek(0)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with av.open(file, options={"format_whitelist": _FORMATS}) as container:
        # The cover of a song is a stream of frames too.
        covers = av.stream.Disposition.attached_pic
        streams = [one for one in container.streams.video if not one.disposition & covers]
        if not streams:
            raise ValueError("it has no frames")
        if streams[0].codec_context is None:
            raise ValueError("its frames are of an unknown format")
        yield container, streams[0]


def _to_image(frame: Any) -> Image.Image:
    has_alpha = any(one.is_alpha for one in frame.format.components)
    image = Image.fromarray(frame.to_ndarray(format="rgba" if has_alpha else "rgb24"))
    # Degrees by which a player turns it, against the clock.
    turn = frame.rotation % 360
    return image.rotate(turn, expand=True) if turn else image
