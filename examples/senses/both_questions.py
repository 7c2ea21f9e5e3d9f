"""Questions that need both a picture and a sound.

Every model is asked for the likeliest of two or four choices. A question is asked in four forms:
`both`; `unseen` with a grey picture; `unheard` with silence; and `told`, with picture and sound in
words, for the LLM without senses.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from wings.eval.items import Item
from wings.examples.drawings import QUARTERS, Drawing
from wings.examples.experiment.gallery import NUMBERS
from wings.examples.experiment.texts import LIKELIHOOD
from wings.examples.scenes import COLOURS, make_distinct_scene
from wings.examples.speech.questions import WRITTEN, in_words

from .seen import PICTURE_KINDS, Seen, see, see_scene, see_several

BOTH, UNSEEN, UNHEARD, TOLD = "both", "unseen", "unheard", "told"
SAME = "Is the word that you hear the name of what you see? Answer yes or no."
PLUS = "What is the number of things that you see plus the number that you hear?"
OF_SHAPE = "What colour is the shape that you hear?"
LARGEST = 6  # number that is said
SUMS = range(2, QUARTERS + LARGEST + 1)


@dataclass(frozen=True)
class BothQuestion:
    """A picture, words that are said, and a written question about the two.

    Attributes:
        kind: one of `BOTH_KINDS`.
        seen: the picture, whose own question is not asked.
        said: words of the sound.
        written: the question.
        choices: answers to choose from, in any order; one is `answer`.
        answer: the right answer.
        sound_first: the sound precedes the picture.
    """

    kind: str
    seen: Seen
    said: str
    written: str
    choices: tuple[str, ...]
    answer: str
    sound_first: bool

    def item(self, picture: str, sound: str) -> Item:
        """The question as an item, with the files of a picture and of a sound."""
        parts = [{"type": "image", "image": picture}, {"type": "audio", "audio": sound}]
        parts = parts[::-1] if self.sound_first else parts
        return self._item([*parts, {"type": "text", "text": self.written}])

    def told(self) -> Item:
        """The question with picture and sound in words."""
        parts = [f"You see {self.seen.words}.", f'You hear "{self.said}".']
        parts = parts[::-1] if self.sound_first else parts
        return self._item(" ".join([*parts, self.written]))

    def _item(self, content: str | list[dict]) -> Item:
        message = {"role": "user", "content": content}
        return Item(
            self.kind, (message,), self.answer, LIKELIHOOD, self.choices, cluster=self.seen.cluster
        )


def ask_both(kind: str, names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    """Draws a question of one of `BOTH_KINDS`; arguments as for `see`."""
    return _MAKERS[kind](names, part, rng)


def _same(names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    seen = see("name", names, part, rng)
    is_same = rng.random() < 0.5
    said = seen.answer if is_same else rng.choice(seen.wrong)
    return _question("same", seen, said, SAME, "yes" if is_same else "no", ("yes", "no"), rng)


def _plus(names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    count, number = rng.randint(1, QUARTERS), rng.randint(1, LARGEST)
    seen = see_several(rng.choice(names), count, part, rng)
    answer = str(count + number)
    wrong = rng.sample([str(one) for one in SUMS if one != count + number], 3)
    return _question("plus", seen, in_words(number), PLUS, answer, (answer, *wrong), rng)


def _colour(names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    while len((scene := make_distinct_scene(rng)).shapes) < 2:
        pass
    seen, shape = see_scene(scene, rng), rng.choice(scene.shapes)
    # The colours of the other shapes first: a model that does not hear may choose them.
    others = [one.colour for one in scene.shapes]
    rest = [colour for colour in COLOURS if colour not in others]
    rng.shuffle(rest)
    wrong = [colour for colour in dict.fromkeys([*others, *rest]) if colour != shape.colour][:3]
    return _question(
        "colour", seen, shape.shape, OF_SHAPE, shape.colour, (shape.colour, *wrong), rng
    )


def _asked(names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    """The sound asks a question about the picture."""
    seen = see(rng.choice(PICTURE_KINDS), names, part, rng)
    # One wrong answer to the same question, and answers to the others: all must be heard.
    other = {
        "name": rng.choice(names).name, "count": rng.choice(NUMBERS), "scene": rng.choice(COLOURS)
    }  # fmt: skip
    del other[seen.kind]
    choices = (seen.answer, rng.choice(seen.wrong), *other.values())
    return _question("asked", seen, seen.question, WRITTEN["question"], seen.answer, choices, rng)


def _question(
    kind: str, seen: Seen, said: str, written: str, answer: str, choices: tuple[str, ...],
    rng: random.Random,
) -> BothQuestion:  # fmt: skip
    order = tuple(rng.sample(choices, len(choices)))
    return BothQuestion(kind, seen, said, written, order, answer, rng.random() < 0.5)


_MAKERS = {"same": _same, "plus": _plus, "colour": _colour, "asked": _asked}
BOTH_KINDS = tuple(_MAKERS)
