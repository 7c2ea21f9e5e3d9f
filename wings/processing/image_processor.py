"""Images: loads them from any source and turns them into a vision tower's pixel values."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.upstream.images import fetch_image

ImageSource = (
    Image.Image | str | Path | bytes | bytearray | memoryview | Mapping | np.ndarray | Tensor
)
_REMOTE = ("http://", "https://", "data:")


def load_image(source: ImageSource) -> Image.Image:
    """Loads one RGB image: EXIF orientation applied, transparency on white, first frame of several.

    Args:
        source: a PIL image; a path, URL or data URI; the bytes of an image file; a mapping with
            `bytes` or `path` (how parquet files hold images); a uint8 array [height, width] or
            [height, width, 1, 3 or 4], or a uint8 tensor [1, 3 or 4, height, width].

    Raises:
        WingsError: nothing there, cut off, or no image; names the source.
    """
    if isinstance(source, Mapping):
        held = source.get("bytes") or source.get("path")
        if held is None:
            raise WingsError(
                f"An image given as a mapping needs 'bytes' or 'path', and this one has "
                f"{', '.join(map(repr, source)) or 'nothing'}."
            )
        return load_image(held)
    name = _describe(source)
    try:
        image = _open(source)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except WingsError:
        raise
    except FileNotFoundError as error:
        raise WingsError(f"{name} does not exist.") from error
    # Decoders of damaged files raise nearly anything (SyntaxError, struct.error, ...).
    except Exception as error:
        raise WingsError(f"{name} is not a whole, readable image ({error}).") from error


class WingsImageKeys(TypedDict, total=False):
    """The settings of an image processor, with the names of the tower's config."""

    image_size: int | list[int]
    image_mean: list[float]
    image_std: list[float]
    interpolation: str
    resize_mode: str


class WingsImageProcessor(BaseImageProcessor):
    """Turns images into the pixel values of one vision tower; settings have its config's names.

    Args:
        image_size: pixels of the square, or [height, width].
        image_mean: of red, green and blue in 0..1.
        image_std: of red, green and blue in 0..1.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        resize_mode: "pad" keeps the aspect and fills with the mean colour; "resize" stretches.
    """

    # Without transformers' own keys, which would be accepted and have no effect.
    valid_kwargs: Any = WingsImageKeys

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        interpolation: str = "bicubic",
        resize_mode: str = "pad",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size if isinstance(image_size, int) else list(image_size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.interpolation = interpolation
        self.resize_mode = resize_mode

    @classmethod
    def from_vision_config(cls, config: Mapping) -> "WingsImageProcessor":
        """The processor of the tower with this (canonical) config."""
        return cls(**{key: config[key] for key in WingsImageKeys.__annotations__})

    def preprocess(
        self, images: ImageSource | Sequence, return_tensors: str = "pt"
    ) -> BatchFeature:
        """One image or any nesting of lists of them, in reading order.

        Returns:
            `pixel_values` [N, 3, height, width] float32.

        Raises:
            WingsError: no image at all, or one that cannot be read (which).
        """
        if return_tensors != "pt":
            raise WingsError(f"'return_tensors' is {return_tensors!r}; it must be 'pt'.")
        flat = flatten_images(images)
        if not flat:
            raise WingsError("No images were given; leave out the argument where there are none.")
        pixels = torch.stack([self._to_pixels(load_image(image)) for image in flat])
        return BatchFeature({"pixel_values": pixels})

    def _to_pixels(self, image: Image.Image) -> Tensor:
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        new_height, new_width = height, width
        if self.resize_mode == "pad":
            scale = min(width / image.width, height / image.height)
            new_width = min(width, max(1, round(image.width * scale)))
            new_height = min(height, max(1, round(image.height * scale)))
        resample = Image.Resampling[self.interpolation.upper()]
        if image.size != (new_width, new_height):
            image = image.resize((new_width, new_height), resample)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        values = (values - mean[:, None, None]) / std[:, None, None]
        # The mean colour is zero once normalised, so the margin is exact and costs nothing.
        canvas = torch.zeros(3, height, width)
        top, left = (height - new_height) // 2, (width - new_width) // 2
        canvas[:, top : top + new_height, left : left + new_width] = values
        return canvas


def flatten_images(images: ImageSource | Sequence | None) -> list:
    """Lists the image sources of one source, None, or any nesting of lists, in reading order."""
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [source for inner in images for source in flatten_images(inner)]
    return [images]


def check_counts(places: Sequence[int], images: Any) -> None:
    """Raises a `WingsError` where the number of images differs from that of their places.

    Args:
        places: per row of a batch, how many images it needs.
        images: sources in any nesting; with one list per row, each row is checked alone.

    Raises:
        WingsError: both counts, and the row where it is known.
    """
    given = [len(flatten_images(images))]
    if isinstance(images, list | tuple) and len(images) == len(places):
        by_row = [len(flatten_images(one)) for one in images if isinstance(one, list | tuple)]
        given = by_row if len(by_row) == len(places) else given
    wanted = places if len(given) == len(places) else [sum(places)]
    for row, (place_count, image_count) in enumerate(zip(wanted, given, strict=True)):
        if place_count != image_count:
            where = f"Row {row}" if len(wanted) > 1 else "The text"
            raise WingsError(
                f"{where} has {place_count} places for an image without a source and "
                f"{image_count} images were given; a place is <image> in plain text and a "
                "{'type': 'image'} part in chat messages."
            )


def _open(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, str) and source.startswith(_REMOTE):
        return fetch_image(source)
    if isinstance(source, str | Path):
        return Image.open(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(source))
    if isinstance(source, Tensor):
        # A matrix is a grey image in either layout.
        source = source.movedim(0, -1) if source.ndim == 3 else source
        source = source.detach().cpu().contiguous().numpy()
    if not isinstance(source, np.ndarray):
        raise WingsError(
            f"{_describe(source)} is not an image; give a PIL image, path, bytes, array or tensor."
        )
    channels = source.shape[2] if source.ndim == 3 else 1
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise WingsError(
            f"{_describe(source)} is not an image; arrays are uint8 [height, width, 3] "
            "and tensors uint8 [3, height, width]."
        )
    return Image.fromarray(source[:, :, 0] if source.ndim == 3 and channels == 1 else source)


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):
        # Sixteen bits a pixel, which convert("RGB") would clip to white.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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


# Both names that transformers asks for; with only one it warns of a fallback.
AutoImageProcessor.register(
    WingsConfig,
    image_processor_classes={"pil": WingsImageProcessor, "torchvision": WingsImageProcessor},
    exist_ok=True,
)
