"""Pixels are what matters: numbers of every range are shown, and metadata never stops them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from wings.errors import WingsError
from wings.processing.image_metadata import without_metadata
from wings.processing.image_reader import load_image


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RAMP = np.arange(800).reshape(20, 40) / 799


def numbers(bits, kind):
    return Image.fromarray(np.round(RAMP * (2**bits - 1)).astype(kind))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16, 18, 24, 31])
@pytest.mark.parametrize("how", ["TIFF int32", "TIFF uint16", "PNG uint16", "memory", "memory 16"])
def test_whole_numbers_fill_the_range_they_use(bits, how):
    if "16" in how and bits > 16:
        pytest.skip("these have 16 bits at most")
    image = numbers(bits, np.uint16 if "16" in how else np.int32)
    source = image if "memory" in how else saved(image, how.split()[0])
    got = np.asarray(load_image(source))[..., 0]
    assert got.min() == 0 and got.max() == 255
    assert np.abs(got - RAMP * 255).max() <= 1, "it is not linear"


def test_what_has_8_bits_is_unchanged():
    flat = Image.new("L", (4, 4), 200)
    for image in (flat, flat.convert("I"), Image.fromarray(np.full((4, 4), 200, np.uint16))):
        assert (np.asarray(load_image(image)) == 200).all()
    for dark in (0, 1, 7):
        image = Image.fromarray(np.full((4, 4), dark, np.int32))
        assert (np.asarray(load_image(image)) == dark).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[-5, 3]], np.int32)),
        Image.fromarray(np.array([[0.0, 1.0]], np.float32)),
        Image.fromarray(np.array([[0.0, np.nan]], np.float32)),
    ],
    ids=["negative", "floats", "nan"],
)
@pytest.mark.parametrize("how", ["memory", "TIFF"])
def test_numbers_of_unknown_range_are_refused(image, how):
    with pytest.raises(WingsError, match=r"range|floats"):
        load_image(image if how == "memory" else saved(image, how))


def deep_png(channels, bits):
    """A PNG with 16 bits a channel that uses only the lowest of them."""
    values = np.round(RAMP * (2**bits - 1)).astype(">u2")
    rows = np.repeat(values[..., None], channels, -1)
    if channels == 4:
        rows[..., 3] = 65535
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 40, 20, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_colours_of_16_bits_are_shown_or_refused(channels, bits):
    data = deep_png(channels, bits)
    if bits == 16:
        assert np.asarray(load_image(data)).max() == 255
    else:
        with pytest.raises(WingsError, match="lowest of its 16 bits"):
            load_image(data)


ODD = [
    b"",
    b"\xff" * 40,
    b"II*\0\x08\0\0\0\xff\xff",
    b"Exif\0\0",
    bytes(range(256)) * 3,
    b"\0" * 99,
]


def exif(*entries):
    """EXIF with these (tag, type, count, value), and the orientation 6."""
    entries = [(0x112, 3, 1, b"\x06\0\0\0"), *entries]
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0" * 4


@pytest.mark.parametrize("kind", range(1, 13))
@pytest.mark.parametrize("tag", [0x103, 0x10E, 0x11A, 0x131, 0x8769, 0x8825, 0x927C, 0xA005])
def test_an_odd_tag_leaves_pixels_and_orientation(kind, tag):
    image = Image.new("RGB", (40, 20), "red")
    for count, value in (
        (1, b"\xff\xff\0\0"),
        (2**31, b"\xff" * 4),
        (0, b"\0" * 4),
        (9, b"\x08\0\0\0"),
    ):
        data = saved(image, "JPEG", exif=exif((tag, kind, count, value)))
        got = load_image(data)
        assert got.size == (20, 40) and got.getpixel((3, 3))[0] > 240


@pytest.mark.parametrize("marker", [*range(0xE1, 0xEE), 0xEF, 0xFE])
@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize(
    "name", [b"", b"ICC_PROFILE\0\x01\x02", b"Photoshop 3.0\0", b"MPF\0", b"Exif\0\0"]
)
def test_a_segment_of_a_jpeg_leaves_its_pixels(marker, text, name):
    plain = saved(Image.fromarray((RAMP * 255).astype(np.uint8)), "JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(name + text) + 2) + name + text
    got = load_image(plain[:2] + segment + plain[2:])
    assert np.array_equal(np.asarray(got), np.asarray(load_image(plain)))


@pytest.mark.parametrize(
    "kind",
    [
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"eXIf",
        b"pHYs",
        b"tIME",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"acTL",
        b"fcTL",
        b"prVt",
        b"caBX",
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_chunk_of_a_png_leaves_its_pixels(kind, place):
    plain = saved(Image.fromarray((RAMP * 255).astype(np.uint8)), "PNG")
    cut = 33 if place == "before" else len(plain) - 12
    bomb = zlib.compress(b"a" * 3_000_000)
    for text in (*ODD, b"parameters\0\0" + bomb, b"name\0" + b"x" * 2_000_000, b"ICC\0\0" + bomb):
        got = load_image(plain[:cut] + chunk(kind, text) + plain[cut:])
        assert np.array_equal(np.asarray(got), np.asarray(load_image(plain))), text[:20]
    wrong = bytearray(chunk(kind, b"k\0v"))
    wrong[-1] ^= 1
    assert load_image(plain[:cut] + bytes(wrong) + plain[cut:]).size == (40, 20)


def test_a_long_text_of_a_png_as_pillow_writes_it():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a" * 3_000_000, zip=True)
    assert load_image(saved(Image.new("RGB", (40, 20)), "PNG", pnginfo=info)).size == (40, 20)


def test_what_has_an_effect_on_pixels_stays():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    data = without_metadata(saved(palette, "PNG", transparency=0))
    assert load_image(data).getpixel((0, 0)) == (255, 255, 255)
    cmyk = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert load_image(without_metadata(cmyk)).getpixel((1, 1)) == load_image(cmyk).getpixel((1, 1))
    for other in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", saved(palette, "GIF")):
        assert without_metadata(other) == other
