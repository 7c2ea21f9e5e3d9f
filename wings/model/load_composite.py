"""Loads a composite model of transformers, which reads images and text, and its processor."""

from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from wings.errors import WingsError
from wings.processing.vision_language import prompt_template
from wings.saved_files import reading

from .load_causal_lm import validate_tensors

NOUN = "model of images and text"


def load_composite(source: str, dtype: Any = "auto") -> PreTrainedModel:
    """Loads a composite model from a folder or the Hub.

    Raises:
        WingsError: none that can be read, tensors that are missing (named), or an encoder-decoder.
    """
    with reading(source, NOUN):
        # Annotated as returning the model alone, which is true only without output_loading_info.
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        model, info = loaded
        # Tensors that nobody reads are the business of transformers, which knows some by name.
        validate_tensors(source, {**info, "unexpected_keys": ()})
    if model.config.is_encoder_decoder:
        raise WingsError(
            f"'{source}' holds a '{model.config.model_type}' model, which is an encoder-decoder; "
            "name a model that continues its prompt."
        )
    return model


def load_composite_processor(source: str) -> ProcessorMixin:
    """Loads the processor of a composite model.

    Its tokenizer gets the same chat template, so that text alone has the same tokens with both, and
    a token to pad with.

    Raises:
        WingsError: no processor there, or one without images, tokenizer or chat template.
    """
    with reading(source, f"processor of a {NOUN}"):
        processor = AutoProcessor.from_pretrained(source)
        parts = ("tokenizer", "image_processor")
        if not all(getattr(processor, part, None) for part in parts):
            raise WingsError(
                f"'{source}' has a {type(processor).__name__} in place of a processor of images "
                "and text; save the model's processor there."
            )
        tokenizer = processor.tokenizer
        tokenizer.chat_template = prompt_template(processor)
        if tokenizer.pad_token is None:
            # Padding is masked; it only needs some id.
            tokenizer.pad_token = tokenizer.eos_token
    return processor
