"""Wings: learners that let any decoder LLM see without forgetting its language."""

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from .cache import WingsCache, WingsStaticCache
from .config import WingsConfig
from .errors import WingsError
from .model import WingsForCausalLM
from .processor import WingsProcessor

__all__ = [
    "WingsCache",
    "WingsConfig",
    "WingsError",
    "WingsForCausalLM",
    "WingsProcessor",
    "WingsStaticCache",
]

AutoModelForCausalLM.register(WingsConfig, WingsForCausalLM)
AutoModelForImageTextToText.register(WingsConfig, WingsForCausalLM)
