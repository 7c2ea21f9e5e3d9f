"""transformers' image processors and image loading, as far as Wings relies on them."""

import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from .contract import Contract


def fetch_image(address: str) -> Image.Image:
    """Return the image at a URL (`http://`, `https://`) or in a data URI, as RGB.

    Relied on since transformers 5.17: `image_utils.load_image` takes both kinds of address and
    applies the EXIF orientation.

    Raises:
        Exception: nearly any, if it cannot be reached or read.
    """
    from transformers.image_utils import load_image

    return load_image(address)


def _check_data_uri() -> None:
    """One red pixel in a data URI is one red pixel."""
    uri = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AA"
        "AAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )
    image = fetch_image(uri)
    assert image.size == (1, 1) and image.getpixel((0, 0)) == (255, 0, 0), f"it is {image}"


def _check_processor() -> None:
    """A processor with keys of its own is called, saved and loaded with them."""
    from transformers import BatchFeature
    from transformers.image_processing_utils import BaseImageProcessor

    class Keys(dict):
        pass

    Keys.__annotations__ = {"edge": int}

    class Processor(BaseImageProcessor):
        valid_kwargs: Any = Keys

        def __init__(self, edge: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.edge = edge

        def preprocess(self, images: Any, return_tensors: str = "pt") -> BatchFeature:
            return BatchFeature({"given": (images, return_tensors)})

    made = Processor(edge=3)
    assert made.model_input_names == ["pixel_values"], "it names other tensors"
    given: Any = "image"
    assert made(given, return_tensors="np")["given"] == ("image", "np"), "call is not preprocess"
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        assert Path(folder, "preprocessor_config.json").exists(), "its file has another name"
        assert Processor.from_pretrained(folder).edge == 3, "its own key was not saved"
        assert Processor.from_pretrained(folder, edge=4).edge == 4, "its own key was not taken"


CONTRACTS = (
    Contract(
        library="transformers",
        since="5.17",
        sentence="load_image reads URLs and data URIs",
        members=("transformers.image_utils:load_image(image)",),
        check=_check_data_uri,
    ),
    Contract(
        library="transformers",
        since="5.17",
        sentence="a BaseImageProcessor may replace preprocess, which a call runs, and its keys are "
        "the annotations of valid_kwargs and the public attributes of the instance",
        members=(
            "transformers.image_processing_utils:BaseImageProcessor.preprocess",
            "transformers.image_processing_utils:BaseImageProcessor.valid_kwargs",
        ),
        check=_check_processor,
    ),
)
