"""Positions of text for composite models that would continue where an earlier image ended."""

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wings.upstream.auto_models import reads_images_and_text


def text_positions(model: PreTrainedModel, start: int, end: int) -> dict[str, Tensor]:
    """`position_ids` [1, end - start] int64 if the model is a composite that takes them, else {}.

    Models such as Qwen2-VL store how far the images of their last pass shifted positions. They add
    this to the positions of any pass that continues from a cache.
    """
    parameters = inspect.signature(type(model).forward).parameters
    if not reads_images_and_text(model.config.model_type) or "position_ids" not in parameters:
        return {}
    return {"position_ids": torch.arange(start, end, device=model.device)[None]}
