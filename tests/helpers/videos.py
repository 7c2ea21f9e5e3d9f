"""Small videos, made on the spot: each frame is one grey level, by its number."""

import io
import struct
from fractions import Fraction

import av
import numpy as np

SIZE = (64, 48)


def level(number):
    """The grey level of frame `number`."""
    return 8 * number % 256


def make_video(
    frames=30, rate=10, *, format="mp4", codec="libx264", pixels="yuv420p", size=SIZE, times=None,
    keys=250, alpha=None, mark=None, path=None, container_options=None,
):  # fmt: skip
    """The bytes of a video.

    Args:
        rate: frames per second.
        times: seconds of each frame, in place of an even rate.
        keys: frames between those that are decoded without others.
        alpha: opacity of all frames, 0 to 255, for pixels that have one.
        mark: (x, y) of a white pixel.
        path: of a file to write, which some options need.
    """
    file = path or io.BytesIO()
    with av.open(file, "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(keys)})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for number in range(frames):
            shape = (size[1], size[0], 3 if alpha is None else 4)
            array = np.full(shape, level(number), np.uint8)
            if mark is not None:
                array[mark[1], mark[0]] = 255
            if alpha is not None:
                array[..., 3] = alpha
            frame = av.VideoFrame.from_ndarray(array, format="rgb24" if alpha is None else "rgba")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue() if path is None else path.read_bytes()


def turned(video):
    """The mp4 file with a header by which players turn it clockwise by 90 degrees."""
    data, start = bytearray(video), video.index(b"tkhd") + 44
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[start : start + 36] = struct.pack(">9i", *matrix)
    return bytes(data)
