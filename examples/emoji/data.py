"""The data of a run on drawings: pictures, and chat messages about them as JSON Lines.

A drawing is in one of three parts for good: `train` (its renderings are trained on), `validation`
and `test` (no picture of it is ever trained on). Renderings of train drawings with other
backgrounds, places and turns are held out too.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .catalogue import Drawing
from .drawings import draw, rendering
from .questions import GROUP_QUESTION, NAME_QUESTION, text_questions

# Every fifth drawing is for the test, every tenth for validation.
TEST_SHARE, VALIDATION_SHARE = 5, 10
GROUP_LIMIT = 60  # faces and persons are a third of all drawings; no group may outweigh the rest
DESCRIBED = frozenset({"face", "hand", "person"})  # groups whose names are descriptions
NAMED_LIMIT = 6  # drawings per group that are asked for by name, those with a name of one word
HELD_RENDERINGS = 3  # of each named drawing for the test; one more is for validation
SEED = 0

Part = dict[str, list[Drawing]]


def split(drawings: Iterable[Drawing]) -> Part:
    """Drawings as `train`, `validation` and `test`, each group in the same proportions."""
    groups: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        groups.setdefault(drawing.group, []).append(drawing)
    parts: Part = {"train": [], "validation": [], "test": []}
    for group, members in groups.items():
        random.Random(f"{SEED}/{group}").shuffle(members)
        members = members[: GROUP_LIMIT if group in DESCRIBED else None]
        tests = round(len(members) / TEST_SHARE)
        validations = round(len(members) / VALIDATION_SHARE)
        parts["test"] += members[:tests]
        parts["validation"] += members[tests : tests + validations]
        parts["train"] += members[tests + validations :]
    return parts


def named(drawings: Iterable[Drawing]) -> list[Drawing]:
    """The drawings that are asked for by name: the first of each group with one-word names."""
    taken: dict[str, int] = {}
    found = []
    for drawing in drawings:
        if drawing.group not in DESCRIBED and " " not in drawing.name:
            taken[drawing.group] = taken.get(drawing.group, 0) + 1
            if taken[drawing.group] <= NAMED_LIMIT:
                found.append(drawing)
    return found


def split_text(questions: Sequence[tuple[str, str]]) -> tuple[list, list]:
    """Text questions for training and for the test, none in both."""
    questions = list(questions)
    random.Random(SEED).shuffle(questions)
    cut = len(questions) * 3 // 5
    return questions[:cut], questions[cut:]


def whole_sentences(questions: list[str], answers: list[str]) -> list[tuple[str, str]]:
    """Questions with the first sentence of their answers; those whose answer was cut before are
    left out.
    """
    first = [answer.strip().split(". ")[0].split("\n")[0] for answer in answers]
    pairs = []
    for question, answer, sentence in zip(questions, answers, first, strict=True):
        if sentence != answer.strip() or sentence.endswith("."):
            pairs.append((question, sentence.removesuffix(".") + "."))
    return pairs


def picture_turn(picture: str, question: str) -> dict:
    """A user's turn with one picture before the question."""
    return {
        "role": "user",
        "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}],
    }


def said(text: str) -> dict:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}


def asked(text: str) -> dict:
    """A user's turn without a picture."""
    return {"role": "user", "content": text}


def alignment(drawing: Drawing, picture: str) -> list[dict]:
    """A conversation of the first stage: a picture and its name."""
    return [picture_turn(picture, NAME_QUESTION), said(drawing.name)]


def instruction(
    drawing: Drawing, picture: str, number: int, with_name: bool, own: Sequence[tuple[str, str]]
) -> list[dict]:
    """A conversation of the second stage: group, name, or one of them with a text question after
    it.

    Args:
        drawing: what the picture shows.
        picture: its file.
        number: the rendering's number, which decides what is asked.
        with_name: whether this drawing is one that is asked for by name.
        own: text questions with the untouched LLM's own answers, which it should go on giving.
    """
    group, name = (GROUP_QUESTION, drawing.group), (NAME_QUESTION, drawing.name)
    # A group after a name could be read from the name: the group comes first, or alone.
    turns = [[group], [name], [group, name]][number % 3] if with_name else [group]
    if own and len(turns) == 1 and number % 4 == 3:
        turns = [*turns, random.Random(f"{SEED}/{drawing.code}/{number}").choice(own)]
    (question, answer), *rest = turns
    messages = [picture_turn(picture, question), said(answer)]
    for question, answer in rest:
        messages += [asked(question), said(answer)]
    return messages


def write(
    folder: Path,
    drawings: Iterable[Drawing],
    answer: Callable[[list[str]], list[str]],
    renderings: tuple[int, int] = (24, 6),
    questions: int | None = None,
) -> dict[str, int]:
    """Pictures and JSON Lines in `folder`; returns how many records each file has.

    Args:
        folder: gets `pictures/` and `align`, `instruct`, `validation`, `test`, each `.jsonl`.
        drawings: the catalogue.
        answer: what the untouched LLM says to text questions.
        renderings: pictures of a train drawing that is asked for by name, and of another.
        questions: of text; None for all.
    """
    parts = split(drawings)
    names = named(parts["train"])
    texts, test_texts = split_text(text_questions()[:questions])
    own = whole_sentences([q for q, _ in texts], answer([q for q, _ in texts]))
    (folder / "pictures").mkdir(parents=True, exist_ok=True)

    def picture(drawing: Drawing, number: int, held_out: bool) -> str:
        file = f"pictures/{drawing.code}-{'held' if held_out else 'seen'}{number}.png"
        draw(drawing.svg, rendering(drawing.code, number, held_out)).save(folder / file)
        return file

    files: dict[str, list[dict]] = {"align": [], "instruct": [], "validation": [], "test": []}
    for drawing in parts["train"]:
        with_name = drawing in names
        for number in range(renderings[0] if with_name else renderings[1]):
            file = picture(drawing, number, held_out=False)
            turns = instruction(drawing, file, number, with_name, own)
            files["instruct"].append(record("train", turns))
            if with_name:
                files["align"].append(record("train", alignment(drawing, file)))
    for part, numbers in (("validation", (0,)), ("test", range(1, 1 + HELD_RENDERINGS))):
        for drawing in names:
            for number in numbers:
                turns = alignment(drawing, picture(drawing, number, held_out=True))
                files[part].append(record("name", turns))
        for drawing in parts[part]:
            turns = [
                picture_turn(picture(drawing, 0, held_out=True), GROUP_QUESTION),
                said(drawing.group),
            ]
            files[part].append(record("group", turns))
    files["test"] += after_pictures(
        test_texts, [(d, f"pictures/{d.code}-held1.png") for d in names]
    )
    for name, records in files.items():
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: len(records) for name, records in files.items()}


def after_pictures(
    questions: Sequence[tuple[str, str]], pictures: Sequence[tuple[Drawing, str]]
) -> list[dict]:
    """Each text question alone (`text`) and after a named picture in the same conversation
    (`mixed`).
    """
    records = []
    for index, (question, word) in enumerate(questions):
        drawing, file = pictures[index * 7 % len(pictures)]
        alone = [asked(question), said(word)]
        records.append(record("text", alone))
        records.append(record("mixed", [*alignment(drawing, file), *alone]))
    return records


def record(kind: str, messages: list[dict]) -> dict:
    """One line of a file."""
    return {"kind": kind, "messages": messages}
