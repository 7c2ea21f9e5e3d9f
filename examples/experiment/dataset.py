"""The experiment's size and its files: the training data and the questions of the tests.

Every method reads the same files. Test pictures have other backgrounds, positions and angles than
training pictures. Drawings that are asked for their group are not trained on. Test questions about
text have other subjects than the replayed text.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from wings.eval.builtin.tasks import TASKS
from wings.eval.items import Item, write_items
from wings.examples.conversations import Exchange, fact_questions, read_lines, write_lines
from wings.examples.drawings import (
    DESCRIBED,
    QUARTERS,
    SIDE,
    Drawing,
    catalogue,
    named,
    render,
    render_several,
    split,
)
from wings.examples.scenes import draw, make_distinct_scene

NUMBERS = ("one", "two", "three", "four")
WHAT_NAME = "What is this?"
WHAT_GROUP = "Which kind of thing is this?"
HOW_MANY = "How many are there?"
HOW_MANY_SHAPES = "How many shapes are there?"
COLOUR = "What colour is the {}?"
OF_TWO = ("What is in the first picture?", "What is in the second picture?")
KINDS = ("name", "group", "count", "shapes", "two pictures")
PARTS = ("validation", "test")
# The LLM's own answers to these prompts about these subjects are the text to replay.
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
class ExperimentSize:
    """Records of each file, and the length of both stages.

    Attributes:
        align, instruct: conversations about pictures, for the two stages.
        text: text conversations with the LLM's own answers.
        drift: how many of them are held out.
        validation, test: questions about pictures.
        of_text: questions of each kind of text, for validation and test. Most are of kinds that a
            small LLM can answer, as it can forget no others.
        align_steps, steps: of stage 1 and of stage 2.
        batch_size: conversations of a step.
        text_tokens: length limit of an answer to a text question.
    """

    align: int = 2400
    instruct: int = 1600
    text: int = 260
    drift: int = 40
    validation: int = 100
    test: int = 250
    of_text: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "capitals": (30, 80),
            "facts": (20, 44),
            "instructions": (16, 44),
            "arithmetic": (7, 16),
            "elements": (7, 16),
        }
    )
    align_steps: int = 200
    steps: int = 75
    batch_size: int = 16
    text_tokens: int = 32


class Dataset:
    """Writes every file into `folder`, which it creates.

    Args:
        folder: gets the files and, in `pictures/`, the pictures.
        size: numbers of records.
        answers: gives the untouched LLM's answers to questions.
    """

    def __init__(
        self, folder: Path, size: ExperimentSize, answers: Callable[[list[str]], list[str]]
    ) -> None:
        self.folder, self.size, self.answers = folder, size, answers
        self.parts = split([d for d in catalogue() if d.group not in DESCRIBED])
        self.names = named(self.parts["train"])
        self.pictures = 0
        (folder / "pictures").mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        """Writes all files. The same size gives the same bytes."""
        self._conversations("align", self.size.align, self._caption)
        self._conversations("instruct", self.size.instruct, self._conversation)
        replayed, held_out = self._llm_texts()
        write_lines(self.folder / "text.jsonl", [{"messages": turns} for turns in replayed])
        text_items = self._text_items()
        for part, count in zip(PARTS, (self.size.validation, self.size.test), strict=True):
            rng = random.Random(f"pictures {part}")
            pictures = [self._item(KINDS[n % len(KINDS)], part, rng) for n in range(count)]
            mixed = [
                replace(item, messages=(*self._before(part, rng), *item.messages))
                for item in text_items[part]
            ]
            for test, items in (
                ("pictures", pictures),
                ("text", text_items[part]),
                ("mixed", mixed),
            ):
                write_items(self.folder / f"{test}_{part}.jsonl", items)
        rng = random.Random("drift")
        pairs = [{"alone": turns, "before": self._before("test", rng)} for turns in held_out]
        write_lines(self.folder / "drift.jsonl", pairs)

    def _conversations(
        self, name: str, count: int, make: Callable[[random.Random], list[dict]]
    ) -> None:
        rng = random.Random(name)
        write_lines(self.folder / f"{name}.jsonl", ({"messages": make(rng)} for _ in range(count)))

    def _caption(self, rng: random.Random) -> list[dict]:
        """One picture; two thirds are single drawings, which have the most names to learn."""
        kinds = ("name", "name", "name", "name", "count", "shapes")
        return self._exchange(rng.choice(kinds), "train", rng)

    def _conversation(self, rng: random.Random) -> list[dict]:
        """One or two exchanges about one picture or two."""
        kind = rng.choice(KINDS)
        messages = self._exchange(kind, "train", rng)
        if kind in ("count", "shapes") and rng.random() < 0.5:
            # A second picture in a later turn.
            messages += self._exchange(rng.choice(("name", "group")), "train", rng)
        return messages

    def _item(self, kind: str, part: str, rng: random.Random) -> Item:
        *messages, answer = self._exchange(kind, part, rng)
        return Item(kind, tuple(messages), answer["content"])

    def _before(self, part: str, rng: random.Random) -> list[dict]:
        """A question about a picture and its right answer, to precede a text question."""
        return self._exchange(rng.choice(("name", "count", "shapes")), part, rng)

    def _exchange(self, kind: str, part: str, rng: random.Random) -> list[dict]:
        """Draws the picture or pictures of a question; returns it and its answer as messages."""
        held_out = part != "train"

        def rendered(drawing: Drawing) -> Image.Image:
            return render(drawing, rng.randrange(10**6), held_out)

        if kind == "shapes":
            scene = make_distinct_scene(rng)
            images = [draw(scene, SIDE)]
            shape = rng.choice(scene.shapes)
            question, answer = COLOUR.format(shape.shape), shape.colour
            if rng.random() < 0.25:
                question, answer = HOW_MANY_SHAPES, NUMBERS[len(scene.shapes) - 1]
        elif kind == "count":
            count = rng.randint(1, QUARTERS)
            images = [render_several(rng.choice(self.names), count, rng, held_out)]
            question, answer = HOW_MANY, NUMBERS[count - 1]
        elif kind == "two pictures":
            two = rng.sample(self.names, 2)
            images = [rendered(drawing) for drawing in two]
            which = rng.randrange(2)
            question, answer = OF_TWO[which], two[which].name
        elif kind == "group":
            # In validation and test, of drawings that are not trained on.
            drawing = rng.choice(self.parts[part])
            images, question, answer = [rendered(drawing)], WHAT_GROUP, drawing.group
        else:
            drawing = rng.choice(self.names)
            images, question, answer = [rendered(drawing)], WHAT_NAME, drawing.name
        pictures = []
        for image in images:
            pictures.append(f"pictures/{self.pictures:05d}.png")
            self.pictures += 1
            image.save(self.folder / pictures[-1])
        return Exchange(kind, question, answer).messages(pictures)

    def _llm_texts(self) -> tuple[list[list[dict]], list[list[dict]]]:
        """Text conversations with the LLM's own answers: to replay, and held out."""
        questions = [prompt.format(subject) for subject in SUBJECTS.split() for prompt in PROMPTS]
        random.Random("own words").shuffle(questions)
        questions = questions[: self.size.text + self.size.drift]
        conversations = [
            Exchange("text", question, answer).messages()
            for question, text in zip(questions, self.answers(questions), strict=True)
            if (answer := whole_sentences(text))
        ]
        return conversations[self.size.drift :], conversations[: self.size.drift]

    def _text_items(self) -> dict[str, list[Item]]:
        """Items of the local tasks and short facts, none in both parts."""
        tasks: dict[str, Callable[[], Sequence[Item]]] = {**TASKS, "facts": facts}
        items: dict[str, list[Item]] = {part: [] for part in PARTS}
        for name, (validation, test) in self.size.of_text.items():
            of_task = [replace(item, kind=name) for item in tasks[name]()]
            items["validation"] += of_task[:validation]
            items["test"] += of_task[validation : validation + test]
        return items


def facts() -> list[Item]:
    """Opposites, languages and continents, shuffled."""
    pairs = fact_questions(("opposites", "languages", "continents"))
    random.Random("facts").shuffle(pairs)
    return [
        Item("facts", ({"role": "user", "content": question},), answer, "mention")
        for question, answer in pairs
    ]


def whole_sentences(answer: str) -> str:
    """The whole sentences at the beginning of an answer that was cut; "" if there is none."""
    line = answer.strip().split("\n")[0]
    return line[: line.rfind(".") + 1]


def read_pairs(path: Path) -> list[dict]:
    """The conversations of `drift.jsonl`, with full paths of the pictures."""
    pairs = read_lines(path)
    for pair in pairs:
        for message in pair["before"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image":
                    part["image"] = str(path.parent / part["image"])
    return pairs
