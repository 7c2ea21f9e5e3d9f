"""The data of `wings emoji`: pictures, and chat messages about them as JSON Lines.

No picture of a drawing in `validation` or `test` is trained on. Of drawings in `train`, renderings
with other backgrounds, positions and angles are held out too.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wings.examples.conversations import Exchange, fact_questions, write_lines
from wings.examples.drawings import GROUPS, SPLIT_SEED, Drawing, by_group, named, render, split

HELD_OUT_RENDERINGS = 3  # of each named drawing for the test; one more is for validation
NAME_QUESTION = "What is this?"
GROUP_QUESTION = (
    "Which group is this from: " + ", ".join(list(GROUPS)[:-1]) + f" or {list(GROUPS)[-1]}?"
)


@dataclass(frozen=True)
class EmojiAmounts:
    """Amount of data of a run.

    Attributes:
        groups: of drawings; None for all.
        drawings: of each group; None for all.
        renderings: pictures of a train drawing that is asked for by name, and of another.
        questions: of text; None for all.
    """

    groups: int | None = None
    drawings: int | None = None
    renderings: tuple[int, int] = (24, 6)
    questions: int | None = None

    def of(self, drawings: Iterable[Drawing]) -> list[Drawing]:
        """The drawings to use, in their order."""
        groups = list(by_group(drawings).values())[: self.groups]
        return [drawing for group in groups for drawing in group[: self.drawings]]


def split_text(questions: Sequence[tuple[str, str]]) -> tuple[list, list]:
    """Text questions for training and for the test, without overlap."""
    questions = list(questions)
    random.Random(SPLIT_SEED).shuffle(questions)
    cut = len(questions) * 3 // 5
    return questions[:cut], questions[cut:]


def whole_sentences(questions: list[str], answers: list[str]) -> list[tuple[str, str]]:
    """Questions with the first sentence of their answers; incomplete sentences are left out."""
    pairs = []
    for question, answer in zip(questions, map(str.strip, answers), strict=True):
        sentence = answer.split(". ")[0].split("\n")[0]
        if sentence != answer or sentence.endswith("."):
            pairs.append((question, sentence.removesuffix(".") + "."))
    return pairs


def name_exchange(drawing: Drawing) -> Exchange:
    """The question for a drawing's name."""
    return Exchange("name", NAME_QUESTION, drawing.name)


def group_exchange(drawing: Drawing) -> Exchange:
    """The question for a drawing's group."""
    return Exchange("group", GROUP_QUESTION, drawing.group)


def instruction(
    drawing: Drawing,
    picture: str,
    number: int,
    with_name: bool,
    text_pairs: Sequence[tuple[str, str]],
) -> list[dict]:
    """A conversation of the second stage: group, name, or both; a text question may follow.

    Args:
        drawing: the drawing in the picture.
        picture: its file.
        number: the rendering's number, which selects the questions.
        with_name: whether this drawing is asked for by name.
        text_pairs: text questions with the untouched LLM's own answers, to keep those.
    """
    group, name = group_exchange(drawing), name_exchange(drawing)
    # A name before the group would give the group away: the group comes first, or alone.
    exchanges = [[group], [name], [group, name]][number % 3] if with_name else [group]
    if text_pairs and len(exchanges) == 1 and number % 4 == 3:
        pair = random.Random(f"{SPLIT_SEED}/{drawing.code}/{number}").choice(text_pairs)
        exchanges = [*exchanges, Exchange("text", *pair)]
    first, *rest = exchanges
    return first.messages([picture]) + [message for turn in rest for message in turn.messages()]


def write(
    folder: Path,
    drawings: Iterable[Drawing],
    answer: Callable[[list[str]], list[str]],
    amounts: EmojiAmounts,
) -> dict[str, int]:
    """Writes pictures and JSON Lines in `folder`; returns the number of records of each file.

    Args:
        folder: gets `pictures/` and `align`, `instruct`, `validation`, `test`, each `.jsonl`.
        drawings: the catalogue, of which `amounts` takes a part.
        answer: gives the untouched LLM's answers to text questions.
        amounts: of data.
    """
    parts = split(amounts.of(drawings))
    names = named(parts["train"])
    texts, test_texts = split_text(fact_questions()[: amounts.questions])
    text_pairs = whole_sentences([q for q, _ in texts], answer([q for q, _ in texts]))
    (folder / "pictures").mkdir(parents=True, exist_ok=True)

    def picture(drawing: Drawing, number: int, held_out: bool) -> str:
        file = f"pictures/{drawing.code}-{'held' if held_out else 'seen'}{number}.png"
        render(drawing, number, held_out).save(folder / file)
        return file

    def record(kind: str, messages: list[dict]) -> dict:
        return {"kind": kind, "messages": messages}

    files: dict[str, list[dict]] = {"align": [], "instruct": [], "validation": [], "test": []}
    for drawing in parts["train"]:
        with_name = drawing in names
        for number in range(amounts.renderings[0 if with_name else 1]):
            file = picture(drawing, number, held_out=False)
            messages = instruction(drawing, file, number, with_name, text_pairs)
            files["instruct"].append(record("train", messages))
            if with_name:
                files["align"].append(record("train", name_exchange(drawing).messages([file])))
    for part, numbers in (("validation", (0,)), ("test", range(1, 1 + HELD_OUT_RENDERINGS))):
        for drawing in names:
            for number in numbers:
                file = picture(drawing, number, held_out=True)
                files[part].append(record("name", name_exchange(drawing).messages([file])))
        for drawing in parts[part]:
            file = picture(drawing, 0, held_out=True)
            files[part].append(record("group", group_exchange(drawing).messages([file])))
    # Each text question alone, and after a named picture in the same conversation.
    for index, pair in enumerate(test_texts):
        drawing = names[index * 7 % len(names)]
        before = name_exchange(drawing).messages([f"pictures/{drawing.code}-held1.png"])
        alone = Exchange("text", *pair).messages()
        files["test"] += [record("text", alone), record("mixed", [*before, *alone])]
    for name, records in files.items():
        write_lines(folder / f"{name}.jsonl", records)
    return {name: len(records) for name, records in files.items()}
