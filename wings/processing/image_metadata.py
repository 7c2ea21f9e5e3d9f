"""Metadata of image files: the orientation, and files without the rest."""

import struct
import zlib

from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Chunks with an effect on pixels: those with a capital first letter, transparency, orientation.
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
# JFIF and Adobe's segment, which says how colours are coded.
_KEPT_SEGMENTS = (0xE0, 0xEE)


def orientation_of(image: Image.Image) -> Image.Transpose | None:
    """The turn that shows an opened image upright; None for none, or where it cannot be read."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # Any tag may be damaged, in any way.
    except Exception:
        return None


def without_metadata(data: bytes) -> bytes:
    """A PNG or JPEG file without texts, profiles, thumbnails and time stamps; others as they are.

    Args:
        data: the file; what follows a damaged length is kept.
    """
    if data.startswith(_PNG):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(_JPEG) else data


def _bare_png(data: bytes) -> bytes:
    parts, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            break
        (check,) = struct.unpack_from(">I", data, end - 4)
        is_whole = zlib.crc32(data[place + 4 : end - 4]) == check
        if kind[:1].isupper() or (kind in _KEPT_CHUNKS and is_whole):
            parts.append(data[place:end])
        place = end
    return b"".join([*parts, data[place:]])


def _bare_jpeg(data: bytes) -> bytes:
    parts, place = [_JPEG], len(_JPEG)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        # Pixels, or a marker without a length.
        if marker == 0xDA or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        end = place + 2 + length
        if length < 2 or end > len(data):
            break
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or marker in _KEPT_SEGMENTS:
            parts.append(data[place:end])
        place = end
    return b"".join([*parts, data[place:]])
