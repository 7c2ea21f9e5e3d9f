"""Words, sums and questions that are spoken, with the answers, in three parts without overlap.

No sum of a part is in another one, commuted or not, and no text of a question is. The vocabulary is
the same in all parts; `wings.examples.speech.records` has it said by voices of the part.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TypeVar

from wings.examples.conversations import fact_questions

PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.15)  # of train and of validation; the test has the rest
SPLIT_SEED = 22
WORDS = (
    "cat", "dog", "sun", "moon", "tree", "fish", "bird", "rain", "snow", "lamp", "ship", "door",
    "stone", "river", "cloud", "apple", "red", "green", "blue", "yellow", "purple", "white",
    "circle", "square", "triangle", "star", "cross", "ring", "house", "water", "garden", "window",
    "mother", "brother", "summer", "winter", "morning", "evening", "paper", "table", "bottle",
    "banana", "potato", "tomato", "family", "hospital", "music", "animal", "elephant", "tiger",
    "butter", "sugar", "silver", "golden", "mountain", "island", "forest", "pencil", "doctor",
    "teacher",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
# What is written after the sound, by kind.
WRITTEN = {
    "word": "Which word do you hear?",
    "sum": "What is the sum?",
    "new sum": "What is the sum?",  # a kind of its own where a test also has sums of the training
    "question": "Answer the question.",
    "transcript": "What is said?",
}
Part = TypeVar("Part")


@dataclass(frozen=True)
class Spoken:
    """A sound's words, the written question about the sound, and the answer.

    Attributes:
        kind: key of `WRITTEN`, in which the answer is counted.
        words: what is said.
        answer: the right answer, or words that it contains.
    """

    kind: str
    words: str
    answer: str

    def messages(self, sound: str | None = None) -> list[dict]:
        """A user's and an assistant's message.

        Args:
            sound: path of the file; None for the ceiling, in which the sound is given as words.
        """
        written = WRITTEN[self.kind]
        content: str | list[dict] = f'You hear "{self.words}". {written}'
        if sound is not None:
            content = [{"type": "audio", "audio": sound}, {"type": "text", "text": written}]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": self.answer}]


class SpokenQuestions:
    """Everything that can be asked in each part.

    Args:
        largest: largest number in a sum, 1 to 99.
        questions: question and answer of the kind "question"; None for facts that a small LLM
            knows, with the words that a right answer contains.
        words: of the kind "word".
    """

    def __init__(
        self,
        largest: int = 9,
        questions: Sequence[tuple[str, str]] | None = None,
        words: Sequence[str] = WORDS,
    ) -> None:
        self.words = words
        questions = fact_questions() if questions is None else list(questions)
        # One text may be asked twice, with two answers.
        texts = list(dict.fromkeys(text for text, _ in questions))
        self.sums = split(list(combinations_with_replacement(range(largest + 1), 2)))
        self.questions = {
            part: [pair for pair in questions if pair[0] in set(members)]
            for part, members in split(texts).items()
        }
        names = {word.strip("?.,!'\"") for text in texts for word in text.split()}
        self.vocabulary = list(dict.fromkeys([*words, *sorted(names - {""})]))

    def every(self, part: str, kind: str) -> list[Spoken]:
        """All items of a part and of the kind "word", "sum" (in both orders) or "question"."""
        if kind == "word":
            return [Spoken(kind, word, word) for word in self.words]
        if kind == "question":
            return [Spoken(kind, text, answer) for text, answer in self.questions[part]]
        pairs = dict.fromkeys(pair for a, b in self.sums[part] for pair in ((a, b), (b, a)))
        return [Spoken("sum", spoken_sum(a, b), str(a + b)) for a, b in pairs]

    def draw(self, rng: random.Random, part: str, kind: str) -> Spoken:
        """One item of a kind of `WRITTEN`.

        A transcript is a few words of the vocabulary, in which single words of all questions are,
        or a sum or question of the part.
        """
        if kind != "transcript":
            return rng.choice(self.every(part, kind))
        if rng.random() < 0.7:
            words = " ".join(rng.sample(self.vocabulary, rng.randint(1, 3)))
        else:
            words = self.draw(rng, part, rng.choice(("sum", "question"))).words
        return Spoken(kind, words, words)


def split(members: Sequence[Part]) -> dict[str, list[Part]]:
    """The members by part, always the same for the same members; a shuffle with a fixed seed."""
    shuffled = list(members)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    first = round(len(shuffled) * SHARES[0])
    second = first + round(len(shuffled) * SHARES[1])
    pieces = (shuffled[:first], shuffled[first:second], shuffled[second:])
    return dict(zip(PARTS, pieces, strict=True))


def spoken_sum(a: int, b: int) -> str:
    """Two numbers up to 99 in words, with "plus" between them."""
    return f"{in_words(a)} plus {in_words(b)}"


def in_words(number: int) -> str:
    """The English name of a number from 0 to 99, without a hyphen."""
    if number < len(BELOW_TWENTY):
        return BELOW_TWENTY[number]
    ten, one = TENS[number // 10 - 2], number % 10
    return f"{ten} {BELOW_TWENTY[one]}" if one else ten
