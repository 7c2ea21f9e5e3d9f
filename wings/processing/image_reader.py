"""Reads an image from any source: RGB pixels, whatever holds them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from wings.errors import WingsError

from .image_limits import ImageLimits
from .image_metadata import orientation_of, without_metadata
from .web_file import fetch_file, is_address, read_file, too_many_bytes

ImageSource = (
    Image.Image | str | Path | bytes | bytearray | memoryview | Mapping | np.ndarray | Tensor
)
# Bits that whole numbers are stored with; more than 16 are rounded to the next power of two.
_DEPTHS = (8, 10, 12, 14, 16)
# Pillow runs another program to read these.
_PROGRAMS = ("EPS",)


class MissingImage(WingsError):
    """There is no such file."""


def load_image(source: ImageSource, limits: ImageLimits | None = None) -> Image.Image:
    """Loads one RGB image: EXIF orientation applied, transparency on white, first frame of several.

    Whole numbers of more than 8 bits are scaled to 8 bits by the range that the image uses: 8, 10,
    12, 14, 16 bits or the next power of two. Metadata that cannot be read is ignored.

    Args:
        source: a PIL image; a path of a regular file, URL or data URI; the bytes of an image file;
            a mapping with `bytes` or `path` (how parquet files hold images); a uint8 array [height,
            width] or [height, width, 1, 3 or 4], or a uint8 tensor [1, 3 or 4, height, width].
        limits: what the image may cost; default: `ImageLimits()`.

    Raises:
        WingsError: nothing there, cut off, no image, beyond the limits, or pixels of unknown range
            (floats, negative numbers); names the source.
    """
    if isinstance(source, Mapping):
        held = source.get("bytes") or source.get("path")
        if held is None:
            raise WingsError(
                f"An image given as a mapping needs 'bytes' or 'path', and this one has "
                f"{', '.join(map(repr, source)) or 'nothing'}."
            )
        return load_image(held, limits)
    name = _describe(source)
    limits = limits or ImageLimits()
    try:
        data = _bytes_of(source, limits)
        if isinstance(data, bytes):
            return _decode(data, limits)
        return _to_rgb(data, limits)
    except _NotAnImage:
        raise
    except WingsError as error:
        raise WingsError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise MissingImage(f"{name} does not exist.") from error
    except UnidentifiedImageError as error:
        raise WingsError(
            f"{name} is not a whole, readable image (its format is unknown)."
        ) from error
    # Decoders of damaged files raise nearly anything (SyntaxError, struct.error, ...).
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WingsError(f"{name} is not a whole, readable image ({reason}).") from error


class _NotAnImage(WingsError):
    """The source is of a type that holds no image."""


def _bytes_of(source: ImageSource, limits: ImageLimits) -> bytes | Image.Image:
    """The bytes of an image file, or an image that is in memory already."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, str) and is_address(source):
        return fetch_file(source, limits)
    if isinstance(source, str | Path):
        return read_file(source, limits)
    if isinstance(source, bytes | bytearray | memoryview):
        if memoryview(source).nbytes > limits.most_bytes:
            raise too_many_bytes(memoryview(source).nbytes, limits)
        return bytes(source)
    if isinstance(source, Tensor):
        # A matrix is a grey image in either layout.
        source = source.movedim(0, -1) if source.ndim == 3 else source
        source = source.detach().cpu().contiguous().numpy()
    if not isinstance(source, np.ndarray):
        raise _NotAnImage(
            f"{_describe(source)} is not an image; give a PIL image, path, bytes, array or tensor."
        )
    channels = source.shape[2] if source.ndim == 3 else 1
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise _NotAnImage(
            f"{_describe(source)} is not an image; arrays are uint8 [height, width, 3] "
            "and tensors uint8 [3, height, width]."
        )
    return Image.fromarray(source[:, :, 0] if source.ndim == 3 and channels == 1 else source)


def _decode(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        return _decode_once(data, limits)
    except Exception:
        plain = without_metadata(data)
        if plain == data:
            raise
        return _decode_once(plain, limits)


def _decode_once(data: bytes, limits: ImageLimits) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if image.format in _PROGRAMS:
        raise ValueError(f"{image.format} files are programs; convert it to PNG")
    return _to_rgb(image, limits)


def _to_rgb(image: Image.Image, limits: ImageLimits) -> Image.Image:
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    if image.width * image.height > limits.image_pixels:
        raise WingsError(
            f"It has {image.width:,} x {image.height:,} pixels, more than image_pixels allows, "
            f"{limits.image_pixels:,}."
        )
    # Pillow keeps the upper 8 of 16 bits a channel.
    is_halved = any(";16" in str(tile[3:]) for tile in getattr(image, "tile", ()))
    image.load()
    # Not earlier: for a PNG, Pillow decodes everything to find it.
    turn = orientation_of(image)
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif is_halved and max(top for _, top in _ranges(image)) < 64:
        raise ValueError("it uses only the lowest of its 16 bits a channel; save it with 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _ranges(image: Image.Image) -> list[tuple[int, int]]:
    """The smallest and largest number of each channel that has a colour."""
    found: Any = image.getextrema()
    ranges = list(found) if isinstance(found[0], tuple) else [found]
    return ranges[: -1 if image.mode in ("RGBA", "LA") else None]


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise ValueError("it has negative numbers, so its range is unknown")
    depth = next((bits for bits in _DEPTHS if high < 2**bits), high.bit_length())
    # More than 16 bits would not fit into 32 once multiplied.
    values = (values >> max(0, depth - 16)).astype(np.uint32)
    top = 2 ** min(depth, 16) - 1
    return ((values * 255 + top // 2) // top).astype(np.uint8)


def _describe(source: Any) -> str:
    match source:
        case str() | Path():
            return f"Image {str(source)[:200]!r}"
        case bytes() | bytearray() | memoryview():
            return f"Image of {len(source)} bytes"
        case np.ndarray() | Tensor():
            return f"Image array {source.dtype} {list(source.shape)}"
        case Image.Image():
            return f"Image ({source.mode}, {source.width} x {source.height})"
    return f"{type(source).__name__} {source!r}"[:200]
