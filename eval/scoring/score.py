"""Scores an answer from 0 to 1 by the scoring rule of its item."""

import re
from collections.abc import Sequence

from wings.errors import WingsError
from wings.eval.items import Item

from .checks import mentions, passes
from .short_answers import matches_any, soft_accuracy

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def score(item: Item, prediction: str) -> float:
    """The score of one answer, by `item.scoring`.

    - "exact": equals the reference, word for word.
    - "mention": names the reference; a full stop at its end does not count.
    - "short", "vqa": see `short_answers.py`.
    - "choice": makes the right choice.
    - "likelihood": the prediction is the likeliest choice; it must be the reference.
    - "checks": passes all checks.

    Raises:
        WingsError: "choice" without choices.
    """
    match item.scoring:
        case "mention":
            # References are written as sentences too: "Honey."
            return float(mentions(prediction, item.answer.rstrip(" .!?")))
        case "short":
            return float(matches_any(prediction, [item.answer, *item.references]))
        case "vqa":
            return soft_accuracy(prediction, item.references)
        case "choice":
            return float(parse_choice(prediction, item.choices) == item.answer)
        case "likelihood":
            return float(prediction == item.answer)
        case "checks":
            return float(all(passes(check, prediction) for check in item.checks))
        case _:
            return float(is_exact(prediction, item.answer))


def score_all(items: Sequence[Item], predictions: Sequence[str]) -> list[float]:
    """The score of every answer, in order."""
    return [score(item, text) for item, text in zip(items, predictions, strict=True)]


def normalise(text: str) -> str:
    """Removes outer and repeated spaces and a final full stop, but keeps case."""
    return " ".join(text.split()).removesuffix(".").rstrip()


def is_exact(prediction: str, answer: str) -> bool:
    """True if the prediction equals the reference, word for word."""
    return normalise(prediction) == normalise(answer)


def share_passed(item: Item, prediction: str) -> float:
    """The share of an item's checks that an answer passes."""
    return sum(passes(check, prediction) for check in item.checks) / len(item.checks)


def parse_choice(prediction: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer makes: by its letter, else by naming exactly one of the choices.

    A letter counts alone ("b", "(B)"), before punctuation ("B. blue", "B) ...") and after
    "answer is", "answer:" or "option". If choices contain each other, the longest one named counts.

    Raises:
        WingsError: no choices.
    """
    if not choices:
        raise WingsError("There is nothing to choose from; give the item its 'choices'.")
    letters = LETTERS[: len(choices)]
    text = prediction.strip()
    for form, flags in (
        (rf"\W*([{letters}])\W*", re.IGNORECASE),
        (rf"\W*([{letters}])\s*[.):,](?!\w).*", re.DOTALL),
        (rf".*?(?i:answer(?: is)?|option|choice)\s*:?\s*\W?([{letters}])\b.*", re.DOTALL),
    ):
        # Within a sentence a letter must be a capital: "a" is a word.
        if match := re.fullmatch(form, text, flags):
            return choices[letters.index(match[1].upper())]
    named = {choice for choice in choices if _names(text, choice)}
    longest = {one for one in named if not any(one != o and _names(o, one) for o in named)}
    return longest.pop() if len(longest) == 1 else None


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its lettered choices and the instruction to answer with a letter."""
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *listed, "Answer with the letter of the right choice."])


def _names(text: str, choice: str) -> bool:
    pattern = rf"(?<!\w){re.escape(choice.strip())}(?!\w)"
    return bool(choice.strip()) and re.search(pattern, text, re.IGNORECASE) is not None
