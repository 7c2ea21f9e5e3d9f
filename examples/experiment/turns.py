"""Turns that need both a picture and a fact, which a switch between two models cannot answer.

Such turns are not trained on. Training has the names of flags and drawings, numbers, and text
alone. Every question is asked in five forms, item by item the same:

- `seen`: the half that needs the picture, as it is trained on: "Which country has this flag?"
- `known`: the half that needs the fact, without a picture: "What is the capital of France?"
- `both`: one turn that needs both: "What is the capital of the country with this flag?"
- `unseen`: `both` with a grey picture.
- `told`: `both` with the picture in words, for the LLM without pictures.

Facts are ones that SmolLM2-135M knows without a picture, far from never and always: capitals 70
percent, continents 81, names backwards 68, sums 55. It does not know which countries are
neighbours (27 percent of four choices). All forms but `seen` are answered by the likeliest of four
choices, and sums are generated.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wings.eval.items import Item
from wings.examples.drawings import Drawing

from .dataset import blank
from .flags import Flag
from .gallery import NUMBERS, Clustered, Gallery, Shown, look
from .texts import LIKELIHOOD

WHAT_FLAG = "Which country has this flag?"
SEEN, KNOWN, BOTH, UNSEEN = TURN_TESTS = ("seen", "known", "both", "unseen")
TOLD = "told"
SEED = "turns"
CAPITAL = "What is the capital of {}? Answer with the name of the city."
CONTINENT = "On which continent is {}?"
CONTINENTS = ("Africa", "Americas", "Asia", "Europe", "Oceania")
BACKWARDS = "Spell {} backwards."
PLUS = "What is {} plus {}?"
ADDED = (2, 6)  # the smallest and the largest number that is added to a count
OF_FLAG = "the country with this flag"


class TurnsGallery(Gallery):
    """A gallery with flags, which also asks for turns that need both.

    Args:
        folder, parts, names: as for `Gallery`.
        flags: that are asked for by the country's name.
    """

    captions = ("name", "name", "name", "flag", "flag", "flag", "count", "scene")
    trained = ("name", "group", "count", "scene", "pair", "flag", "flag")

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Sequence[Drawing]],
        names: Sequence[Drawing],
        flags: Sequence[Flag],
    ) -> None:
        super().__init__(folder, parts, names)
        self.flags = flags

    def show(self, kind: str, part: str, rng: random.Random) -> Shown:
        """Draws a flag, or what `Gallery` draws."""
        if kind != "flag":
            return super().show(kind, part, rng)
        flag = rng.choice(self.flags)
        return self._flag(flag, part, rng)

    @staticmethod
    def _flag(flag: Flag, part: str, rng: random.Random) -> Shown:
        return Shown([look(flag, rng, part != "train")], WHAT_FLAG, flag.name, flag.code)

    def more_tests(self, part: str, count: int) -> dict[str, list[Clustered]]:
        """`count` questions of each kind in every form; none in validation."""
        if part != "test":
            return {}
        rng = random.Random(SEED)
        tests: dict[str, list[Clustered]] = {name: [] for name in (*TURN_TESTS, TOLD)}
        makers = (self._capital, self._continent, self._backwards, self._plus)
        for n in range(count * len(makers)):
            for test, item in makers[n % len(makers)](rng):
                tests[test].append(item)
        return tests

    def _capital(self, rng: random.Random) -> list[tuple[str, Clustered]]:
        flag = rng.choice(self.flags)
        wrong = rng.sample([name for name in flag.capitals if name != flag.capital], 3)
        return self._of_flag("capital", flag, CAPITAL, flag.capital, wrong, rng)

    def _continent(self, rng: random.Random) -> list[tuple[str, Clustered]]:
        flag = rng.choice(self.flags)
        wrong = rng.sample([name for name in CONTINENTS if name != flag.group], 3)
        return self._of_flag("continent", flag, CONTINENT, flag.group, wrong, rng)

    def _of_flag(
        self, kind: str, flag: Flag, question: str, answer: str, wrong: list[str],
        rng: random.Random,
    ) -> list[tuple[str, Clustered]]:  # fmt: skip
        forms = (question.format(flag.name), question.format(OF_FLAG))
        told = f"This is the flag of {flag.name}."
        return self._forms(kind, self._flag(flag, "test", rng), *forms, told, answer, wrong, rng)

    def _backwards(self, rng: random.Random) -> list[tuple[str, Clustered]]:
        shown = self.show("name", "test", rng)
        others = [drawing.name for drawing in self.names if drawing.name != shown.answer]
        forms = (
            BACKWARDS.format(f"the word '{shown.answer}'"),
            BACKWARDS.format("the name of this"),
        )
        told = f"The name of this is '{shown.answer}'."
        wrong = [backwards(name) for name in rng.sample(others, 3)]
        return self._forms("backwards", shown, *forms, told, backwards(shown.answer), wrong, rng)

    def _plus(self, rng: random.Random) -> list[tuple[str, Clustered]]:
        shown = self.show("count", "test", rng)
        count, added = NUMBERS.index(shown.answer) + 1, rng.randint(*ADDED)
        forms = (PLUS.format(count, added), PLUS.format("the number of things here", added))
        told = f"The number of things here is {count}."
        return self._forms("plus", shown, *forms, told, str(count + added), (), rng)

    def _forms(
        self, kind: str, shown: Shown, known: str, both: str, told: str, answer: str,
        wrong: Sequence[str], rng: random.Random,
    ) -> list[tuple[str, Clustered]]:  # fmt: skip
        """A question in its forms, with the same choices; without wrong ones it is generated."""
        pictures = [{"type": "image", "image": name} for name in self.save(shown.images)]
        choices = tuple(rng.sample([answer, *wrong], 1 + len(wrong))) if wrong else ()
        scoring = LIKELIHOOD if wrong else "mention"

        def with_pictures(question: str) -> tuple[dict, ...]:
            return ({"role": "user", "content": [*pictures, {"type": "text", "text": question}]},)

        def words(question: str) -> tuple[dict, ...]:
            return ({"role": "user", "content": question},)

        turn = Item(kind, with_pictures(both), answer, scoring, choices)
        forms = {
            SEEN: Item(kind, with_pictures(shown.question), shown.answer),
            KNOWN: replace(turn, messages=words(known)),
            BOTH: turn,
            UNSEEN: blank(turn),
            TOLD: replace(turn, messages=words(f"{told} {both}")),
        }
        return [(test, (item, shown.cluster)) for test, item in forms.items()]


def backwards(name: str) -> str:
    """`apple` -> `E L P P A`: SmolLM2 recognises it more often with spaces, in capitals."""
    return " ".join(reversed(name.upper()))
