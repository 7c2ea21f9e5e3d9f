"""The errors of the house: a sentence that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class WingsError(ValueError):
    """A wrong input, refused before any work is lost; the message is one sentence."""


class HubError(WingsError):
    """The Hub refused a request or cannot be reached; the message is one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'rank'?)` for a name close to a known one, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
