"""Data of the gate experiment: the quickstart's, with questions about an earlier picture.

Without such questions a gate could learn that a turn without a picture needs no learners.
"""

import random
from pathlib import Path

from wings.examples.conversations import Exchange
from wings.examples.quickstart.dataset import AFTER_PICTURES, QuickstartAmounts, Writer
from wings.examples.quickstart.texts import text_turn
from wings.examples.scenes import ORDER, Scene, ask, in_words, make_scene, question

FOLLOW_UPS = ("same picture", "after a text turn", "first of two pictures")
# Seeds of the questions; the trainings have other ones, and so has the quickstart.
TEST, VALIDATION = 1017, 1018
TEST_ITEMS = {"pictures": 480, "mixed": 480, "follow_ups": 360}
VALIDATION_ITEMS = {"pictures": 240, "mixed": 240, "follow_ups": 120}


class GateWriter(Writer):
    """Writes training data, or the questions of a test.

    A mixed item also has `words`: the same conversation with the picture described in words, which
    the LLM alone can be asked.
    """

    def write_questions(self, amounts: dict[str, int]) -> None:
        """Writes `pictures.jsonl`, `mixed.jsonl` and `follow_ups.jsonl`, so many items each."""
        makers = {
            "pictures": self.picture_item,
            "mixed": self.mixed_item,
            "follow_ups": self.follow_up_item,
        }
        for name, amount in amounts.items():
            self._file(name, amount, makers[name])

    def conversation(self, rng: random.Random, n: int) -> dict:
        """Every other one is the quickstart's; in the others a question goes back to a picture."""
        if n % 2 == 0:
            return super().conversation(rng, n // 2)
        messages = self.follow_up(rng, FOLLOW_UPS[1 + n // 2 % 2])
        kind = rng.choice(AFTER_PICTURES)
        return {"messages": messages + text_turn(self.world, rng, False, kind).messages()}

    def mixed_item(self, rng: random.Random, n: int) -> dict:
        """A question about a picture, its answer, and then a held-out text question."""
        scene = make_scene(rng)
        first, item = question(scene, rng), self.text_item(rng, n)
        described = Exchange("", f"{in_words(scene.things)}. {first.question}", first.answer)
        return {
            "kind": item["kind"],
            "messages": first.messages(self._save(scene)) + item["messages"],
            "words": described.messages() + item["messages"],
        }

    def follow_up_item(self, rng: random.Random, n: int) -> dict:
        """A question about an earlier picture, all kinds in turn."""
        kind = FOLLOW_UPS[n % len(FOLLOW_UPS)]
        return {"kind": kind, "messages": self.follow_up(rng, kind)}

    def follow_up(self, rng: random.Random, kind: str) -> list[dict]:
        """A conversation whose last question is about an earlier picture, of one `FOLLOW_UPS`."""
        scene = make_scene(rng)
        first = question(scene, rng)
        messages = first.messages(self._save(scene))
        if kind == "first of two pictures":
            second = make_scene(rng)
            messages += question(second, rng).messages(self._save(second))
            where = f" in the {ORDER[0]} picture"
            return messages + Exchange("", *ask(rng, scene.things, where)).messages()
        if kind == "after a text turn":
            messages += text_turn(self.world, rng, False, rng.choice(AFTER_PICTURES)).messages()
        return messages + other_question(scene, first, rng).messages()


def other_question(scene: Scene, first: Exchange, rng: random.Random) -> Exchange:
    """A question about a picture that has not been asked yet."""
    while True:
        second = question(scene, rng)
        if second.question != first.question:
            return second


def draw_training(folder: Path, seed: int, pictures: int | None = None) -> None:
    """Writes captions and conversations; `pictures` limits both, None for the quickstart's size."""
    full = QuickstartAmounts(text=0, held_out=0)
    if pictures is not None:
        full = QuickstartAmounts(0, captions=pictures, conversations=pictures, held_out=0)
    GateWriter(folder, seed).write(full)


def draw_questions(folder: Path) -> None:
    """Writes `test` and `validation`, each a folder of three files."""
    for name, seed, amounts in (
        ("test", TEST, TEST_ITEMS),
        ("validation", VALIDATION, VALIDATION_ITEMS),
    ):
        GateWriter(folder / name, seed).write_questions(amounts)
