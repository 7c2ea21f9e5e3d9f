"""Names the keys in which two recipes differ, with both values."""

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

SHOWN_KEYS = 5
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 40
_SHORT.maxdict = _SHORT.maxlist = 3
_ABSENT = object()


def changed_keys(
    old: Any, new: Any, ignored: Sequence[str] = (), path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with the old and the new one.

    Args:
        old, new: plain values, as from `Recipe.to_dict`.
        ignored: dotted keys that may differ.
        path: key of `old` and `new`; empty for whole recipes.
    """
    if old == new or path in ignored:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        entries = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        entries = [(number, *pair) for number, pair in enumerate(zip(old, new, strict=True))]
    else:
        yield path, old, new
        return
    for key, before, after in entries:
        yield from changed_keys(before, after, ignored, f"{path}.{key}" if path else str(key))


def describe_changes(changes: Sequence[tuple[str, Any, Any]]) -> str | None:
    """The changes as `seed 0 (now 1), steps 40 (now 60)`, at most `SHOWN_KEYS`; None for none."""
    words = [f"{key} {_word(old)} (now {_word(new)})" for key, old, new in changes[:SHOWN_KEYS]]
    more = len(changes) - SHOWN_KEYS
    return ", ".join([*words, *([f"and {more} more"] if more > 0 else [])]) or None


def _word(value: Any) -> str:
    return "not given" if value is _ABSENT or value is None else _SHORT.repr(value)
