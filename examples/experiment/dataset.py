"""The experiment's files: what is trained on, and what is asked of every model in the end.

Every method reads the same files. Nothing that is asked in the end is among what is trained on: its
pictures have other grounds, places and turns, the things whose group is asked for were never seen,
and text is asked about other matters than the text that training replays.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from wings.eval.builtin.tasks import TASKS
from wings.eval.items import Item, write_items
from wings.examples.emoji.catalogue import Drawing, catalogue
from wings.examples.emoji.data import DESCRIBED, NAME_QUESTION, named, split
from wings.examples.emoji.questions import CONTINENTS, FACTS, LANGUAGES, OPPOSITES
from wings.examples.quickstart.dataset import read_lines, write_lines

from .pictures import MOST, one_drawing, scene_picture, shapes, some_of_a_kind
from .sizes import Amounts

NUMBERS = ("one", "two", "three", "four")
WHAT_GROUP = "Which kind of thing is this?"
HOW_MANY = "How many are there?"
HOW_MANY_SHAPES = "How many shapes are there?"
COLOUR = "What colour is the {}?"
OF_TWO = ("What is in the first picture?", "What is in the second picture?")
KINDS = ("name", "group", "count", "shapes", "two pictures")
PARTS = ("validation", "test")
# What is asked about many subjects for the LLM to answer in its own words: text to replay.
PROMPTS = (
    "What is a {}?",
    "Tell me about {}.",
    "Write one sentence with the word '{}'.",
    "Why do people like {}?",
    "Give me a short definition of '{}'.",
    "Name two things that go well with a {}.",
)
SUBJECTS = (
    "river bridge market teacher window garden story doctor kitchen forest island village poem"
    " holiday painting telescope bicycle harvest library museum battery candle lighthouse mirror"
    " compass blanket chair ladder oven orchestra letter shadow storm valley winter carpet engine"
    " fountain harbour journey magnet meadow newspaper pillow poet puzzle sailor school song"
    " statue tailor temple theatre tunnel umbrella volcano wheel wool"
)


@dataclass(frozen=True)
class Question:
    """One question about the pictures before it, with its right answer, and of which kind it is."""

    kind: str
    text: str
    answer: str


def exchange(question: Question, pictures: tuple[str, ...] = ()) -> list[dict]:
    """A user's and an assistant's turn; the pictures stand before the question."""
    content: str | list[dict] = question.text
    if pictures:
        images = [{"type": "image", "image": name} for name in pictures]
        content = [*images, {"type": "text", "text": question.text}]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": question.answer},
    ]


class Dataset:
    """Writes every file into `folder`, which it makes.

    Args:
        folder: holds the files and, in `pictures/`, what they name.
        amounts: how many records of each.
        answers: what the untouched LLM says to questions.
        on_record: called after every record.
    """

    def __init__(
        self,
        folder: Path,
        amounts: Amounts,
        answers: Callable[[list[str]], list[str]],
        on_record: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.amounts, self.answers, self.on_record = (
            folder, amounts, answers, on_record,
        )  # fmt: skip
        of_things = [d for d in catalogue() if d.group not in DESCRIBED]
        self.parts = split(of_things)
        self.names = named(self.parts["train"])
        self.pictures = 0
        (folder / "pictures").mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """All files. The same amounts give the same bytes."""
        self._lines("align", self.amounts.align, self._caption)
        self._lines("instruct", self.amounts.instruct, self._conversation)
        replayed, held_out = self._own_words()
        write_lines(self.folder / "text.jsonl", replayed)
        of_text = self._text_items()
        for part in PARTS:
            count = self.amounts.of(part)
            rng = random.Random(f"pictures {part}")
            asked = [self._item(KINDS[n % len(KINDS)], part, rng) for n in range(count)]
            write_items(self.folder / f"pictures_{part}.jsonl", asked)
            write_items(self.folder / f"text_{part}.jsonl", of_text[part])
            mixed = [self._after_a_picture(item, part, rng) for item in of_text[part]]
            write_items(self.folder / f"mixed_{part}.jsonl", mixed)
        rng = random.Random("drift")
        pairs = [{"alone": turns, "before": self._before("test", rng)} for turns in held_out]
        write_lines(self.folder / "drift.jsonl", pairs)

    def _lines(self, name: str, count: int, make: Callable[[random.Random], list[dict]]) -> None:
        rng = random.Random(name)
        write_lines(self.folder / f"{name}.jsonl", self._records(count, make, rng))

    def _records(
        self, count: int, make: Callable[[random.Random], list[dict]], rng: random.Random
    ) -> Iterator[dict]:
        for _ in range(count):
            yield {"messages": make(rng)}
            self.on_record()

    def _caption(self, rng: random.Random) -> list[dict]:
        """What is in one picture; four in six are single drawings, which have the most to name."""
        kind = rng.choice(("name", "name", "name", "name", "count", "shapes"))
        pictures, question = self._ask(kind, "train", rng)
        return exchange(question, pictures)

    def _conversation(self, rng: random.Random) -> list[dict]:
        """One or two exchanges about one picture or two."""
        kind = rng.choice(KINDS)
        pictures, question = self._ask(kind, "train", rng)
        turns = exchange(question, pictures)
        if kind in ("count", "shapes") and rng.random() < 0.5:
            # A second picture in a later turn.
            pictures, question = self._ask(rng.choice(("name", "group")), "train", rng)
            turns += exchange(question, pictures)
        return turns

    def _item(self, kind: str, part: str, rng: random.Random) -> Item:
        pictures, question = self._ask(kind, part, rng)
        asked = exchange(question, pictures)[:-1]
        return Item(kind, tuple(asked), question.answer)

    def _before(self, part: str, rng: random.Random) -> list[dict]:
        pictures, question = self._ask(rng.choice(("name", "count", "shapes")), part, rng)
        return exchange(question, pictures)

    def _after_a_picture(self, item: Item, part: str, rng: random.Random) -> Item:
        """The same item behind a question about a picture and its right answer."""
        return replace(item, messages=(*self._before(part, rng), *item.messages))

    def _ask(self, kind: str, part: str, rng: random.Random) -> tuple[tuple[str, ...], Question]:
        held_out = part != "train"
        if kind == "shapes":
            scene = shapes(rng)
            picture = self._save(scene_picture(scene))
            mark = rng.choice(scene.marks)
            if rng.random() < 0.25:
                return (picture,), Question(kind, HOW_MANY_SHAPES, NUMBERS[len(scene.marks) - 1])
            return (picture,), Question(kind, COLOUR.format(mark.shape), mark.colour)
        if kind == "count":
            count = rng.randint(1, MOST)
            image = some_of_a_kind(rng.choice(self.names), count, rng, held_out)
            return (self._save(image),), Question(kind, HOW_MANY, NUMBERS[count - 1])
        if kind == "two pictures":
            two = rng.sample(self.names, 2)
            pictures = tuple(self._drawing(drawing, held_out, rng) for drawing in two)
            which = rng.randrange(2)
            return pictures, Question(kind, OF_TWO[which], two[which].name)
        if kind == "group":
            # In the end, the group of things that were never trained on.
            drawing = rng.choice(self.parts[part])
            picture = self._drawing(drawing, held_out, rng)
            return (picture,), Question(kind, WHAT_GROUP, drawing.group)
        drawing = rng.choice(self.names)
        picture = self._drawing(drawing, held_out, rng)
        return (picture,), Question(kind, NAME_QUESTION, drawing.name)

    def _drawing(self, drawing: Drawing, held_out: bool, rng: random.Random) -> str:
        return self._save(one_drawing(drawing, rng.randrange(10**6), held_out))

    def _save(self, image: Image.Image) -> str:
        name = f"pictures/{self.pictures:05d}.png"
        self.pictures += 1
        image.save(self.folder / name)
        return name

    def _own_words(self) -> tuple[list[dict], list[list[dict]]]:
        """Text conversations with the LLM's own answers: to replay, and held out."""
        asked = [prompt.format(subject) for subject in SUBJECTS.split() for prompt in PROMPTS]
        random.Random("own words").shuffle(asked)
        asked = asked[: self.amounts.text + self.amounts.drift]
        said = [sentences(answer) for answer in self.answers(asked)]
        turns = [
            exchange(Question("text", question, answer))
            for question, answer in zip(asked, said, strict=True)
            if answer
        ]
        held_out, replayed = turns[: self.amounts.drift], turns[self.amounts.drift :]
        return [{"messages": messages} for messages in replayed], held_out

    def _text_items(self) -> dict[str, list[Item]]:
        """Items of the local tasks and short facts, none in both parts."""
        tasks = {**TASKS, "facts": lambda: list(facts())}
        found: dict[str, list[Item]] = {part: [] for part in PARTS}
        for name, counts in self.amounts.of_text.items():
            items = [replace(item, kind=name) for item in tasks[name]()]
            cut = counts[0]
            found["validation"] += items[:cut]
            found["test"] += items[cut : cut + counts[1]]
        return found


def facts() -> Iterator[Item]:
    """Opposites, languages and continents, in an order that mixes them."""
    of = {CONTINENTS, LANGUAGES, OPPOSITES}
    pairs = [
        (question.format(pair.split(" ", 1)[0]), pair.split(" ", 1)[1])
        for question, told in FACTS
        if told in of
        for pair in told.split("|")
    ]
    random.Random("facts").shuffle(pairs)
    for question, answer in pairs:
        yield Item("facts", ({"role": "user", "content": question},), answer, "mention")


def sentences(answer: str) -> str:
    """The whole sentences at the beginning of an answer that was cut; "" if there is none."""
    line = answer.strip().split("\n")[0]
    return line[: line.rfind(".") + 1]


def read_pairs(path: Path) -> list[dict]:
    """The conversations of `drift.jsonl`; pictures by their whole paths."""
    pairs = read_lines(path)
    for pair in pairs:
        for message in pair["before"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image":
                    part["image"] = str(path.parent / part["image"])
    return pairs
