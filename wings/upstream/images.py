"""transformers' image processors, as far as Wings relies on them."""

import tempfile
from pathlib import Path
from typing import Any

from .contract import Contract


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
        sentence="a BaseImageProcessor may replace preprocess, which a call runs, and its keys are "
        "the annotations of valid_kwargs and the public attributes of the instance",
        members=(
            "transformers.image_processing_utils:BaseImageProcessor.preprocess",
            "transformers.image_processing_utils:BaseImageProcessor.valid_kwargs",
        ),
        check=_check_processor,
    ),
)
