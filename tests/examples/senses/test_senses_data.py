"""The study's data: questions that need both senses, and parts that do not meet."""

import random
from dataclasses import replace

import pytest
from PIL import Image

from wings.eval.items import read_items
from wings.examples.conversations import read_lines
from wings.examples.drawings import Drawing
from wings.examples.experiment import gallery
from wings.examples.experiment.gallery import NUMBERS
from wings.examples.scenes import COLOURS, SHAPES
from wings.examples.senses import seen, senses_data
from wings.examples.senses.both_questions import (
    BOTH,
    BOTH_KINDS,
    TOLD,
    UNHEARD,
    UNSEEN,
    ask_both,
)
from wings.examples.senses.senses_data import GREY_PICTURE, SILENCE, SensesData, read_pairs
from wings.examples.senses.senses_size import TRIAL
from wings.examples.speech.tones import Tones

NAMES = [Drawing(f"{n}", name, "animal") for n, name in enumerate(("cat", "dog", "sun", "axe"))]


class Spy(Tones):
    """Tones that note what each voice says."""

    def __init__(self):
        self.said = []

    def say_all(self, utterances):
        self.said += utterances
        return super().say_all(utterances)


@pytest.fixture(scope="module")
def drawn():
    """Pictures need no package."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((gallery, ("render",)), (seen, ("render_several", "draw"))):
            for name in names:
                patch.setattr(module, name, lambda *a, **k: Image.new("RGB", (8, 8), "red"))
        yield


@pytest.fixture(scope="module")
def written(drawn, tmp_path_factory):
    folder, spy = tmp_path_factory.mktemp("senses"), Spy()
    size = replace(TRIAL, items=3, more_steps=4, blank=4)
    SensesData(folder, NAMES, spy, size, lambda asked: ["It is."] * len(asked)).write()
    return folder, spy.said


def test_the_answer_follows_from_picture_and_sound(drawn):
    rng = random.Random(0)
    for n in range(400):
        kind = BOTH_KINDS[n % len(BOTH_KINDS)]
        one = ask_both(kind, NAMES, "test", rng)
        assert one.answer in one.choices and len(set(one.choices)) == len(one.choices)
        words = one.seen.words
        if kind == "named":
            right = (words.partition(": ")[2], one.said)
            assert one.answer == " and ".join(right)
            # Both must be perceived: each of the two is in one wrong answer, and none in another.
            pairs = [choice.split(" and ") for choice in one.choices]
            halves = sorted((a == right[0], b == right[1]) for a, b in pairs)
            assert halves == [(False, False), (False, True), (True, False), (True, True)]
        elif kind == "colour":
            shapes = dict(reversed(part.split()[1:]) for part in words.split(" and "))
            assert len(shapes) > 1 and shapes[one.said] == one.answer
            # A model that sees and does not hear has the colours of other shapes to choose.
            assert set(shapes.values()) <= set(one.choices)
        else:
            assert one.said == one.seen.question and len(one.choices) == 4
            forms = (COLOURS, NUMBERS, [drawing.name for drawing in NAMES])
            assert all(any(choice in form for choice in one.choices) for form in forms)


def test_forms_of_a_question_differ_in_what_is_given_alone(written):
    folder, _ = written
    both, told, unseen, unheard = (
        read_items(folder / f"{name}.jsonl") for name in (BOTH, TOLD, UNSEEN, UNHEARD)
    )
    assert len(both) == len(told) == 9 and len(unseen) == len(unheard) == 4
    for item, words in zip(both, told, strict=True):
        assert (item.answer, item.choices) == (words.answer, words.choices)
        assert "You see" in words.messages[0]["content"]
    for blank, kept, file in ((unseen, "audio", GREY_PICTURE), (unheard, "image", SILENCE)):
        for item, other in zip(both, blank, strict=False):
            ours, theirs = (
                {part["type"]: part[part["type"]] for part in one.messages[0]["content"]}
                for one in (item, other)
            )
            gone = {"audio": "image", "image": "audio"}[kept]
            assert str(ours[kept]) == str(theirs[kept]) and ours["text"] == theirs["text"]
            assert str(theirs[gone]).endswith(file) and str(ours[gone]) != str(theirs[gone])


def test_trainings_have_their_own_voices_and_no_question_for_both(written):
    folder, said = written
    parts = {"train": set(), "test": set()}
    for utterance in said:
        part = next(p for p in parts if utterance.voice in getattr(Tones.voices, p))
        parts[part].add(utterance.text)
    test_sums = {text for text in parts["test"] if " plus " in text}
    assert test_sums and not test_sums & parts["train"]
    for name in ("image-align", "image-instruct", "audio-align", "audio-instruct"):
        kinds = {
            part["type"]
            for record in read_lines(folder / f"{name}.jsonl")
            for part in record["messages"][0]["content"]
        }
        assert kinds == {name.partition("-")[0], "text"}
    asked = [
        [part["type"] for part in record["messages"][0]["content"]]
        for record in read_lines(folder / "both-instruct.jsonl")
    ]
    assert len(asked) == 8 and all({*kinds} == {"image", "audio", "text"} for kinds in asked)
    # Both orders occur, as the rule `newest` depends on it.
    assert {kinds[0] for kinds in asked} == {"image", "audio"}


def test_words_that_are_compared_with_pictures_are_trained_on(written):
    folder, _ = written
    questions = SensesData(folder, NAMES, Tones(), TRIAL, list).questions
    vocabulary = set(questions.vocabulary)
    assert {drawing.name for drawing in NAMES} | {*SHAPES, *COLOURS, "six"} <= {*questions.words}
    assert {*["What", "is", "this", "How", "many", "are", "there", "colour", "the"]} <= vocabulary
    assert "What is this?" not in vocabulary


def test_text_is_the_same_alone_and_after_each_sense(written):
    folder, _ = written
    alone, picture, sound = (
        read_items(folder / f"{name}.jsonl") for name in ("text", "after_picture", "after_sound")
    )
    for item, one, other in zip(alone, picture, sound, strict=True):
        assert item.messages == one.messages[2:] == other.messages[2:]
        assert one.messages[0]["content"][0]["type"] == "image"
        assert other.messages[0]["content"][0]["type"] == "audio"
    trained = [record["messages"][0]["content"] for record in read_lines(folder / "replay.jsonl")]
    assert trained and not {item.messages[0]["content"] for item in alone} & {*trained}
    pairs = read_pairs(folder / "drift.jsonl")
    assert len(pairs) == 2
    for pair in pairs:
        for name, kind in (("picture", "image"), ("sound", "audio")):
            assert (folder / pair[name][0]["content"][0][kind]).exists()
    assert senses_data.REPLAY == "replay"
