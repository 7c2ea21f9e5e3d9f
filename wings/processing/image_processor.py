"""`WingsImageProcessor`: turns images into a vision tower's pixel values."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.saved_code import IMAGE_PROCESSOR_CLASSES, auto_map, write_code

from .image_limits import ImageLimits
from .image_reader import ImageSource, load_image


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

    Attributes:
        limits: what an image may cost; not saved.
    """

    limits = ImageLimits()

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
        kwargs.pop("auto_map", None)
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

    def to_dict(self) -> dict[str, Any]:
        """The settings that are saved, with the class for Auto classes."""
        fields = {key: value for key, value in super().to_dict().items() if key != "limits"}
        return {**fields, "auto_map": auto_map(IMAGE_PROCESSOR_CLASSES)}

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; also writes the code that `auto_map` names."""
        write_code(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoImageProcessor") -> None:
        """Does nothing: every folder is saved with its code, see `wings/saved_code.py`."""

    def preprocess(
        self, images: ImageSource | Sequence, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """One image or any nesting of lists of them, in reading order.

        Returns:
            `pixel_values` [N, 3, height, width] float32, an array where `return_tensors` is "np".

        Raises:
            WingsError: no image at all, or one that cannot be read (which).
        """
        kind = getattr(return_tensors, "value", return_tensors)
        if kind not in (None, "pt", "np"):
            raise WingsError(f"'return_tensors' is {return_tensors!r}; it must be 'pt' or 'np'.")
        flat = flatten_images(images)
        if not flat:
            raise WingsError("No images were given; leave out the argument where there are none.")
        pixels = torch.stack([self._to_pixels(load_image(image, self.limits)) for image in flat])
        return BatchFeature({"pixel_values": pixels.numpy() if kind == "np" else pixels})

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


# Both names that transformers asks for; with only one it warns of a fallback.
AutoImageProcessor.register(
    WingsConfig,
    image_processor_classes={"pil": WingsImageProcessor, "torchvision": WingsImageProcessor},
    exist_ok=True,
)
