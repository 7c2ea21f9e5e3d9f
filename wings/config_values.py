"""Types and bounds of the values that a person writes for a `WingsConfig`."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from .errors import WingsError

LEARNERS = ("image", "text")
ROUTERS = ("position", "modality", "attended", None)
FORMS = ("lorra", "cross_attention")
GATE_SHAPES = ("tanh", "hill")
PROJECTORS = ("mlp2x_gelu",)
# For tokens that can see items of several senses, see `wings/layers/combination.py`.
RULES = ("sum", "mean", "newest", "attended")
# More tokens than any context has; ids and sizes of tensors fit into 32 bits.
_MOST_TOKENS = 2**24
_MOST_IDS = 2**31 - 1


def is_whole(value: Any, low: int, high: int) -> bool:
    """True for an int between the two, both included; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= sys.float_info.max


def _are_learners(value: Any) -> bool:
    names = list(value) if isinstance(value, list | tuple) else [None]
    return all(isinstance(name, str) and name in LEARNERS for name in names) and (
        len(set(names)) == len(names)
    )


def _are_blocks(value: Any) -> bool:
    blocks = list(value) if isinstance(value, list | tuple) else [None]
    return all(is_whole(block, 0, _MOST_IDS) for block in blocks) and (
        len(set(blocks)) == len(blocks)
    )


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


# Field -> (the values that it may have, the same in words).
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "other_senses": (
        lambda value: value is None or isinstance(value, Mapping),
        "a mapping from names of senses to their fields",
    ),
    "rank": (lambda value: is_whole(value, 1, _MOST_IDS), "a whole number, 1 or more"),
    "router": (
        lambda value: value is None or (isinstance(value, str) and value in ROUTERS),
        "'position', 'modality', 'attended' or None",
    ),
    "learner_form": (
        lambda value: isinstance(value, str) and value in FORMS,
        "'lorra' or 'cross_attention'",
    ),
    "gate_shape": (
        lambda value: isinstance(value, str) and value in GATE_SHAPES,
        "'tanh' or 'hill'",
    ),
    "gate_power": (_is_rate, "a number larger than zero"),
    "share_factors": (_is_switch, "true or false"),
    "learners": (_are_learners, "a list that names 'image' and 'text' at most once"),
    "learner_layers": (
        lambda value: value is None or _are_blocks(value),
        "None or a list of block numbers, each once",
    ),
    "prefix_length": (
        lambda value: is_whole(value, 0, _MOST_TOKENS),
        f"a whole number of keys, 0 for none, at most {_MOST_TOKENS:,}",
    ),
    "gate_detach": (_is_switch, "true or false"),
    "normalize_sources": (_is_switch, "true or false"),
    "init_std": (
        lambda value: (isinstance(value, str) and value == "scaled") or _is_rate(value),
        "a number larger than zero or 'scaled'",
    ),
    "projector": (
        lambda value: isinstance(value, str) and value in PROJECTORS,
        "'mlp2x_gelu'",
    ),
    "text_guard": (_is_switch, "true or false"),
    "senses_rule": (
        lambda value: isinstance(value, str) and value in RULES,
        "'sum', 'mean', 'newest' or 'attended'",
    ),
    "llm_trained": (lambda value: value is None or _is_switch(value), "true, false or None"),
    "image_token_id": (
        lambda value: value is None or is_whole(value, 0, _MOST_IDS),
        "None or a whole number, 0 or more",
    ),
    "image_seq_length": (
        lambda value: value is None or is_whole(value, 1, _MOST_TOKENS),
        f"None or a whole number, 1 to {_MOST_TOKENS:,}",
    ),
    "router_positions": (
        lambda value: is_whole(value, 1, _MOST_TOKENS),
        f"a whole number, 1 to {_MOST_TOKENS:,}",
    ),
}


def validate_field(name: str, value: Any, where: str = "") -> None:
    """Raise a `WingsError` if a field of `CHECKS` has a value of another type or out of bounds.

    Args:
        name: the field; one that is not in `CHECKS` is not looked at.
        value: its value.
        where: written before the name in the error, such as `wings.`.
    """
    if name not in CHECKS:
        return
    is_good, words = CHECKS[name]
    if not is_good(value):
        raise WingsError(f"{where}{name} is {shown(value)}, but must be {words}.")


def shown(value: Any) -> str:
    """The value as Python writes it, at most 60 letters; its type where that fails."""
    try:
        text = repr(value)
    # Whole numbers of thousands of digits are not written.
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
