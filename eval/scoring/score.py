"""What an answer is worth, from 0 to 1, by the scoring of its item."""

import re
from collections.abc import Sequence

from wings.errors import WingsError
from wings.eval.items import Item

from .checks import mentions, passes
from .short_answers import same, soft_accuracy

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def score(item: Item, said: str) -> float:
    """The worth of one answer.

    "exact" is word for word; "mention" if the reference is named in it; "short" and "vqa" as in
    `short_answers.py`; "choice" if the choice that was made is the answer; "likelihood" if the
    likeliest choice, which counts as said, is; "checks" if all are passed.

    Raises:
        WingsError: a choice among no choices.
    """
    match item.scoring:
        case "mention":
            return float(mentions(said, item.answer))
        case "short":
            return float(same(said, [item.answer, *item.references]))
        case "vqa":
            return soft_accuracy(said, item.references)
        case "choice":
            return float(chosen(said, item.choices) == item.answer)
        case "likelihood":
            return float(said == item.answer)
        case "checks":
            return float(all(passes(check, said) for check in item.checks))
        case _:
            return float(is_right(said, item.answer))


def score_all(items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    """The worth of every answer, in order."""
    return [score(item, said) for item, said in zip(items, answers, strict=True)]


def normalise(text: str) -> str:
    """Without outer and doubled spaces and a final full stop; capitals count, as items ask for
    them.
    """
    return " ".join(text.split()).removesuffix(".").rstrip()


def is_right(said: str, answer: str) -> bool:
    """Whether the answer is the reference, word for word."""
    return normalise(said) == normalise(answer)


def share_passed(item: Item, said: str) -> float:
    """The share of an item's checks that an answer passes."""
    return sum(passes(check, said) for check in item.checks) / len(item.checks)


def chosen(said: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer makes: by its letter, else by naming exactly one of the choices.

    A letter counts alone ("b", "(B)"), before a mark ("B. blue", "B) ...") and after "answer is",
    "answer:" or "option". Of choices that contain each other the longest that is named counts.

    Raises:
        WingsError: no choices.
    """
    if not choices:
        raise WingsError("there is nothing to choose from; give the item its 'choices'")
    letters = LETTERS[: len(choices)]
    text = said.strip()
    for form, flags in (
        (rf"\W*([{letters}])\W*", re.IGNORECASE),
        (rf"\W*([{letters}])\s*[.):,](?!\w).*", re.DOTALL),
        (rf".*?(?i:answer(?: is)?|option|choice)\s*:?\s*\W?([{letters}])\b.*", re.DOTALL),
    ):
        # Within a sentence a letter must be a capital: "a" is a word.
        if found := re.fullmatch(form, text, flags):
            return choices[letters.index(found[1].upper())]
    named = {choice for choice in choices if _names(text, choice)}
    longest = {one for one in named if not any(one != o and _names(o, one) for o in named)}
    return longest.pop() if len(longest) == 1 else None


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question, its choices with letters, and how to answer."""
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *listed, "Answer with the letter of the right choice."])


def _names(text: str, choice: str) -> bool:
    pattern = rf"(?<!\w){re.escape(choice.strip())}(?!\w)"
    return bool(choice.strip()) and re.search(pattern, text, re.IGNORECASE) is not None
