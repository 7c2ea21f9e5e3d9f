"""Images: whatever holds one, the same pixels come out, and what holds none is named."""

import io

import numpy as np
import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor

import wings  # noqa: F401  (registers the image processor)
from wings.errors import WingsError
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.image_reader import load_image

RNG = np.random.default_rng(0)


def colours(height=9, width=13):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_source_gives_the_same_image(tmp_path):
    array = colours()
    image = Image.fromarray(array)
    data = file_of(image)
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    sources = [
        image, path, str(path), data, bytearray(data), memoryview(data), array,
        array[:, ::-1][:, ::-1], torch.from_numpy(array).permute(2, 0, 1),
        {"bytes": data, "path": None}, {"bytes": None, "path": str(path)},
    ]  # fmt: skip
    for source in sources:
        got = load_image(source)
        assert got.mode == "RGB" and np.array_equal(np.asarray(got), array), type(source)


def test_modes_become_rgb():
    grey = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    want = np.stack([grey] * 3, -1)
    for source in (Image.fromarray(grey), grey, grey[..., None], torch.from_numpy(grey)[None]):
        assert np.array_equal(np.asarray(load_image(source)), want)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(load_image(file_of(deep))), want)
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert load_image(file_of(cmyk, "JPEG", quality=100)).getpixel((1, 1))[0] > 200
    bilevel = Image.new("1", (4, 4), 1)
    assert load_image(bilevel).getpixel((0, 0)) == (255, 255, 255)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert load_image(clear).getpixel((0, 0)) == (255, 255, 255)
    half = np.full((4, 4, 4), (255, 0, 0, 128), dtype=np.uint8)
    assert load_image(half).getpixel((0, 0))[1] == pytest.approx(127, abs=1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert load_image(palette).getpixel((0, 0)) == (10, 20, 30)
    assert load_image(file_of(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(Image.new("LA", (4, 4), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turns_the_image_up():
    image = Image.new("RGB", (8, 4), "red")
    image.paste("blue", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = load_image(file_of(image, exif=exif))
    assert turned.size == (4, 8)
    assert turned.getpixel((1, 0)) == (0, 0, 255) and turned.getpixel((1, 7)) == (255, 0, 0)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_the_source_is_left_alone():
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 0))
    array = colours()
    before = array.copy()
    load_image(image)
    load_image(array)
    assert image.mode == "RGBA" and np.array_equal(array, before)


def test_what_is_no_image_is_named(tmp_path):
    whole = file_of(Image.fromarray(colours(64, 64)), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for source, says in [
        (tmp_path / "none.png", r"none\.png' does not exist"),
        (tmp_path / "cut.jpg", r"cut\.jpg' is not a whole"),
        (tmp_path / "text.png", r"text\.png' is not a whole"),
        (tmp_path / "empty.png", r"empty\.png' is not a whole"),
        (tmp_path, "is not a whole"),
        (b"", "Image of 0 bytes"),
        (whole[:300], "Image of 300 bytes"),
        (file_of(Image.fromarray(colours(64, 64)))[:-400], "is not a whole"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"uint8 \[3, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), "is not a whole"),
        (torch.zeros(28, 28, 3, dtype=torch.uint8), "is not an image"),
        (torch.zeros(3, 4, 4), "float32"),
        (Image.new("F", (4, 4)), "floats of unknown range"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (17, "int 17"),
        ({"url": "x"}, "'bytes' or 'path'"),
    ]:
        with pytest.raises(WingsError, match=says):
            load_image(source)


@examples(30)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["pad", "resize"]),
    st.sampled_from([28, (14, 42), (42, 14)]),
)
def test_any_size_fills_its_share_of_the_canvas(width, height, mode, size):
    processor = WingsImageProcessor(size, resize_mode=mode)
    pixels = processor(Image.new("RGB", (width, height), "white"))["pixel_values"][0]
    rows, columns = (size, size) if isinstance(size, int) else size
    assert pixels.shape == (3, rows, columns)
    filled = pixels[0] == 1
    assert (filled | (pixels[0] == 0)).all(), "the margin is the mean colour, which is zero"
    area = filled.any(1).sum().item(), filled.any(0).sum().item()
    if mode == "resize":
        assert area == (rows, columns)
    else:
        scale = min(columns / width, rows / height)
        assert area[0] == max(1, round(height * scale)) and area[1] == max(1, round(width * scale))
        top = filled.any(1).nonzero()[0].item()
        assert abs(top - (rows - area[0] - top)) <= 1, "the image stands in the middle"


def test_values_are_normalised():
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    array = np.full((5, 5, 3), (255, 51, 0), dtype=np.uint8)
    pixels = WingsImageProcessor(5, mean, std)(array)["pixel_values"]
    want = [(1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0 - 0.3) / 2]
    assert torch.allclose(pixels[0, :, 2, 2], torch.tensor(want), atol=1e-6)
    assert pixels.dtype == torch.float32


def test_interpolation_is_the_towers():
    array = colours(40, 40)
    got = {
        name: WingsImageProcessor(16, interpolation=name)(array)["pixel_values"]
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    kinds = list(got.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(kinds) for b in kinds[:i])
    want = Image.fromarray(array).resize((16, 16), Image.Resampling.BICUBIC)
    want = torch.from_numpy(np.array(want)).permute(2, 0, 1) / 255 * 2 - 1
    assert torch.allclose(got["bicubic"][0], want, atol=1e-6)


def test_many_images_keep_their_order():
    images = [Image.new("RGB", (4, 4), (grey, grey, grey)) for grey in range(0, 250, 10)]
    nested = [images[:3], [images[3], images[4:]]]
    flat = WingsImageProcessor(4)(images)["pixel_values"]
    assert torch.equal(flat, WingsImageProcessor(4)(nested)["pixel_values"])
    assert flat[:, 0, 0, 0].diff().min() > 0
    with pytest.raises(WingsError, match="No images"):
        WingsImageProcessor(4)([])
    with pytest.raises(WingsError, match="must be 'pt' or 'np'"):
        WingsImageProcessor(4)(images, return_tensors="tf")


def test_round_trip(tmp_path):
    made = WingsImageProcessor((14, 28), [0.1, 0.2, 0.3], [1, 2, 3], "bilinear", "resize")
    made.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").exists()
    image = colours()
    for loaded in (
        WingsImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path),
    ):
        assert type(loaded) is WingsImageProcessor
        assert torch.equal(loaded(image)["pixel_values"], made(image)["pixel_values"])
