"""Short answers as VQA counts them: what is the same after normalising, and soft accuracy.

Written from the description of VQA's evaluation: lower case, punctuation away, number words as
digits, no articles, contractions with their apostrophe.
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
# Without their apostrophe most are no other word, so they get it back.
CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def normalise_short(text: str) -> str:
    """A short answer as it is compared.

    A mark is dropped beside a space, and everywhere if a comma stands between digits; elsewhere it
    becomes a space. A full stop goes unless a digit follows.
    """
    text = " ".join(text.lower().split())
    between_digits = re.search(r"\d,\d", text) is not None
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if beside_space or between_digits else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [NUMBERS.get(word, word) for word in text.split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def same(said: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of several: numbers by their value, all else once normalised."""
    ours = number_of(said)
    for answer in answers:
        theirs = number_of(answer)
        # Normalising takes a minus away, and knows no trailing zeros.
        if ours is not None and theirs is not None:
            if ours == theirs:
                return True
        elif normalise_short(said) == normalise_short(answer):
            return True
    return False


def number_of(text: str) -> float | None:
    """The value of a number in digits, `-1,250.50`; None for any other text."""
    plain = text.strip().removesuffix(".")
    if not re.fullmatch(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?", plain) or plain in ("", "-", "+"):
        return None
    return float(plain.replace(",", ""))


def soft_accuracy(said: str, annotators: Sequence[str]) -> float:
    """Of every annotator left out in turn, the mean of `min(1, agreeing others / 3)`.

    With ten annotators, three who agree with the answer are worth 0.9, four or more 1. All answers
    are normalised, also where the annotators are of one mind.

    Args:
        said: the model's answer.
        annotators: what each of them said; at least two.
    """
    ours = normalise_short(said)
    agree = [normalise_short(answer) == ours for answer in annotators]
    return sum(min(1.0, (sum(agree) - own) / 3) for own in agree) / len(agree)
