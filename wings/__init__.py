"""Wings: learners that let any decoder LLM see without forgetting its language."""

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from .cache import WingsCache
from .config import WingsConfig
from .errors import WingsError
from .model import WingsForCausalLM

__all__ = ["WingsCache", "WingsConfig", "WingsError", "WingsForCausalLM"]

AutoModelForCausalLM.register(WingsConfig, WingsForCausalLM)
AutoModelForImageTextToText.register(WingsConfig, WingsForCausalLM)
