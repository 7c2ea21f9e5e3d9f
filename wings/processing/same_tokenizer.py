"""Checks that two processors write a text in the same tokens."""

from typing import Any

from wings.errors import WingsError


def validate_same_tokenizer(first: Any, other: Any, number: int) -> None:
    """Raises a `WingsError` if two processors write a text in other tokens.

    Args:
        first, other: the processors.
        number: of the other one, for the error.
    """
    placeholders = {sense.token for one in (first, other) for sense in one.senses.values()}
    ours, theirs = (
        {word: at for word, at in one.tokenizer.get_vocab().items() if word not in placeholders}
        for one in (first, other)
    )
    if ours != theirs:
        word = sorted({*ours.items()} ^ {*theirs.items()})[0][0]
        raise WingsError(
            f"The tokenizers differ, so their senses do not fit together: {word!r} of processor "
            f"{number} is another token than in the first; compose models of one language model."
        )
    if first.chat_template != other.chat_template:
        raise WingsError(
            f"Processor {number} has another chat template than the first, so one of the models "
            "would read turns that it was not trained on: give both the same template."
        )
