"""Questions that need both a picture and a sound.

Every model is asked for the likeliest of four choices. A question is asked in four forms: `both`;
`unseen` with a grey picture; `unheard` with silence; and `told`, with picture and sound in words,
for the LLM without senses.

The untouched LLM answers 98, 40 and 65 percent of the three kinds in words, of 80 each. Two more
kinds were left out before the first run, as it answers them by chance: whether the word that is
said names what is seen, and the number of things plus the number that is said.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from wings.eval.items import Item
from wings.examples.drawings import Drawing
from wings.examples.experiment.gallery import NUMBERS
from wings.examples.experiment.texts import LIKELIHOOD
from wings.examples.scenes import COLOURS, make_distinct_scene
from wings.examples.speech.questions import WRITTEN

from .seen import PICTURE_KINDS, Seen, see, see_scene

BOTH, UNSEEN, UNHEARD, TOLD = "both", "unseen", "unheard", "told"
NAME_BOTH = "What do you see, and what do you hear?"
OF_SHAPE = "What colour is the shape that you hear?"


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


def _named(names: Sequence[Drawing], part: str, rng: random.Random) -> BothQuestion:
    """The name of what is seen and the word that is said; wrong answers have one or neither."""
    seen = see("name", names, part, rng)
    said, *others = rng.sample(list(seen.wrong), 3)
    first, second = others
    pairs = ((seen.answer, said), (seen.answer, first), (second, said), (second, first))
    choices = tuple(f"{one} and {other}" for one, other in pairs)
    return _question("named", seen, said, NAME_BOTH, choices[0], choices, rng)


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


_MAKERS = {"named": _named, "colour": _colour, "asked": _asked}
BOTH_KINDS = tuple(_MAKERS)
