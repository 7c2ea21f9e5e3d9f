"""Short answers as in VQA: normalisation and soft accuracy.

Follows the description of VQA's evaluation: lower case, no punctuation, number words as digits, no
articles, contractions with their apostrophe.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(n) for n, word in enumerate(_COUNTED.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's i've isn't it'd it'll let's ma'am might've mightn't must've mustn't needn't o'clock
    oughtn't shan't she'd she's should've shouldn't somebody's someone's something's that'd that's
    there'd there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'll who's who've why'll why's won't would've
    wouldn't y'all you'd you'll you're you've
"""
# Answers often drop the apostrophe; VQA restores it.
CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def normalise_short(text: str) -> str:
    """The normalised form of a short answer.

    Punctuation next to a space is removed, elsewhere it becomes a space. If the text has a comma
    between digits, all punctuation is removed. A full stop is removed unless a digit follows.
    """
    text = " ".join(text.lower().split())
    between_digits = re.search(r"\d,\d", text) is not None
    for sign in PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        text = text.replace(sign, "" if beside_space or between_digits else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [NUMBERS.get(word, word) for word in text.split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def matches_any(prediction: str, answers: Sequence[str]) -> bool:
    """True if a prediction equals one of several answers, numerically or once normalised."""
    ours = number_of(prediction)
    for answer in answers:
        theirs = number_of(answer)
        # Normalisation removes a minus sign and keeps trailing zeros.
        if ours is not None and theirs is not None:
            if ours == theirs:
                return True
        elif normalise_short(prediction) == normalise_short(answer):
            return True
    return False


def number_of(text: str) -> float | None:
    """The value of a number in digits, `-1,250.50`; None for other text."""
    plain = text.strip().removesuffix(".")
    if not re.fullmatch(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?", plain) or plain in ("", "-", "+"):
        return None
    return float(plain.replace(",", ""))


def soft_accuracy(prediction: str, annotators: Sequence[str]) -> float:
    """VQA accuracy: the mean of `min(1, agreeing others / 3)` with each annotator left out in turn.

    With ten annotators, three who agree give 0.9, four or more give 1. All answers are normalised,
    even if all annotators agree.

    Args:
        prediction: the model's answer.
        annotators: one answer per annotator; at least two.
    """
    ours = normalise_short(prediction)
    agree = [normalise_short(answer) == ours for answer in annotators]
    return sum(min(1.0, (sum(agree) - left_out) / 3) for left_out in agree) / len(agree)
