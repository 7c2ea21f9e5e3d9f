"""Letters that someone typed and that spell a token: kept apart from the token itself."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers.utils import get_json_schema

# A private letter, in place of the first and the last letter of a token that was typed.
_EDGE = "\ue0a1"
_ESCAPED = "\\ue0a1"


def stand_in(token: str) -> str:
    """The letters that replace a typed `token` until the text is tokenised; of the same length."""
    return f"{_EDGE}{token[1:-1]}{_EDGE}"


class TypedLetters:
    """Replaces tokens in what people said, so that a chat template's own tokens differ from them.

    Args:
        tokens: tokens that only a template or an image may write; those of one or two letters
            cannot be kept apart and are left out.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        kept = {token for token in tokens if len(token) > 2}
        self.tokens = tuple(sorted(kept, key=len, reverse=True))
        self.of_stand_in = {stand_in(token): token for token in self.tokens}
        self._written = _any_of(self.tokens)
        self._either = _any_of([*self.of_stand_in, *self.tokens])

    def hide(self, value: Any) -> Any:
        """A copy of the value, with every token in a string of it replaced by its stand-in."""
        return _map_strings(value, lambda text: self._written.sub(_stand_in_of, text))

    def unescaped(self, text: str) -> str:
        """The text with stand-ins as they are, where a template wrote them as JSON in ASCII."""
        if _ESCAPED in text:
            for letters in self.of_stand_in:
                text = text.replace(letters.replace(_EDGE, _ESCAPED), letters)
        return text

    def restore(self, text: str) -> tuple[str, list[tuple[str, bool]]]:
        """The text as it was typed, and the (token, is typed) of every token in it, in order."""
        if not self.tokens:
            return text, []
        found = [match.group() for match in self._either.finditer(text)]
        kinds = [
            (self.of_stand_in.get(letters, letters), letters in self.of_stand_in)
            for letters in found
        ]
        plain = self._either.sub(lambda match: self.of_stand_in.get(match[0], match[0]), text)
        return plain, kinds


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts) or r"(?!)")


def _stand_in_of(match: re.Match[str]) -> str:
    return stand_in(match.group())


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(inner, change) for inner in value]
    if callable(value):
        # A tool that is a function: its description is in its docstring.
        return _map_strings(get_json_schema(value), change)
    return value
