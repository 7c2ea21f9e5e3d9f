"""The rows of embedding tables that only a child has."""

import torch
from torch import Tensor

from wings.errors import WingsError

from .source import Source


def validate_same_tokens(base: Source, child: Source) -> None:
    """Raises a `WingsError` if a token of the LLM has another id in a child."""
    own = child.vocabulary
    for token, number in base.vocabulary.items():
        if own.get(token) != number:
            raise WingsError(
                f"'{child.given}' has another tokenizer than '{base.given}': the token {token!r} is"
                f" {own.get(token, 'missing')} and not {number}; name the LLM that it was trained"
                f" from."
            )


def added_rows(base: Source, child: Source, base_rows: int, child_rows: int) -> Tensor:
    """Marks the rows of a child's table that are not merged.

    These are rows of tokens that the child added, even where the LLM has an unused row, and all
    rows past the LLM's last one.

    Args:
        base, child: with the same tokens, as `validate_same_tokens` says.
        base_rows, child_rows: of their tables.

    Returns:
        Booleans [child_rows].
    """
    marked = torch.zeros(child_rows, dtype=torch.bool)
    marked[base_rows:] = True
    known = set(base.vocabulary.values())
    added = [i for i in child.vocabulary.values() if i not in known and i < child_rows]
    marked[added] = True
    return marked
