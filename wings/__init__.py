"""Wings: low-rank attention learners that give any decoder LLM new senses."""

import importlib
from typing import TYPE_CHECKING, Any

from .upstream.auto_classes import register_in_time

if TYPE_CHECKING:
    from .cache.wings_cache import WingsCache, WingsStaticCache
    from .config import WingsConfig
    from .errors import WingsError
    from .model.causal_lm import WingsForCausalLM
    from .model.compose import compose
    from .processing.processor import WingsProcessor

__version__ = "0.1.0"

__all__ = [
    "WingsCache",
    "WingsConfig",
    "WingsError",
    "WingsForCausalLM",
    "WingsProcessor",
    "WingsStaticCache",
    "__version__",
    "compose",
]

# A name and the module it is imported from on first use: the command line starts with this file,
# and torch and transformers take seconds to import.
_MODULES = {
    "WingsCache": "cache.wings_cache",
    "WingsConfig": "config",
    "WingsError": "errors",
    "WingsForCausalLM": "model.causal_lm",
    "WingsProcessor": "processing.processor",
    "WingsStaticCache": "cache.wings_cache",
    "compose": "model.compose",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES[name]}", __name__)
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_in_time()
