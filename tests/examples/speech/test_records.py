"""Spoken questions: parts without overlap, files that repeat, and records that Wings reads."""

import filecmp
import random
from itertools import chain, combinations

import pytest

from wings.errors import WingsError
from wings.examples.conversations import fact_questions, read_lines
from wings.examples.speech.questions import PARTS, WORDS, SpokenQuestions, in_words, split
from wings.examples.speech.records import (
    KINDS,
    SpokenAmounts,
    every_in_turn,
    save_sounds,
    write_spoken,
)
from wings.examples.speech.tones import Tones
from wings.processing.audio_reader import load_audio

AMOUNTS = SpokenAmounts(align=12, instruct=9, held_out=3)


class Spy(Tones):
    """Tones that note the voice of each text."""

    def __init__(self):
        self.said = []

    def say_all(self, utterances):
        self.said += utterances
        return super().say_all(utterances)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, spy = tmp_path_factory.mktemp("spoken"), Spy()
    counts = write_spoken(folder, spy, SpokenQuestions(), AMOUNTS, seed=3)
    return folder, counts, spy.said


def user_parts(record):
    return record["messages"][0]["content"]


def test_sums_and_questions_of_the_parts_do_not_meet():
    questions = SpokenQuestions(largest=12)
    for a, b in combinations(PARTS, 2):
        for kind in ("sum", "question"):
            meet = {item.words for item in questions.every(a, kind)}
            assert not meet & {item.words for item in questions.every(b, kind)}
    sums = [item for part in PARTS for item in questions.every(part, "sum")]
    assert len({item.words for item in sums}) == len(sums) == 13 * 13
    assert {item.words for p in PARTS for item in questions.every(p, "question")} == {
        text for text, _ in fact_questions()
    }
    # Each order of a pair is in the part of the pair.
    part_of = {item.words: part for part in PARTS for item in questions.every(part, "sum")}
    assert part_of["four plus nine"] == part_of["nine plus four"]


def test_a_transcript_of_training_never_holds_a_question_of_another_part():
    questions = SpokenQuestions()
    rng = random.Random(0)
    said = {questions.draw(rng, "train", "transcript").words for _ in range(3000)}
    for part in ("validation", "test"):
        for kind in ("sum", "question"):
            assert not said & {item.words for item in questions.every(part, kind)}
    # Names that only such questions have are heard alone.
    assert any(words == "Finland" or words.startswith("Finland ") for words in said)


def test_the_split_does_not_change_and_takes_questions_of_ones_own():
    own = [(f"Question {n}?", str(n)) for n in range(20)]
    a, b = (SpokenQuestions(questions=own) for _ in range(2))
    assert a.questions == b.questions
    assert [len(a.questions[part]) for part in PARTS] == [12, 3, 5]
    assert sorted(chain(*split(range(7)).values())) == list(range(7))
    twice = SpokenQuestions(questions=[*own, ("Question 3?", "three")])
    (part,) = [p for p in PARTS if ("Question 3?", "three") in twice.questions[p]]
    assert ("Question 3?", "3") in twice.questions[part]


def test_numbers_in_words():
    assert [in_words(n) for n in (0, 13, 20, 45, 99)] == [
        "zero", "thirteen", "twenty", "forty five", "ninety nine",
    ]  # fmt: skip
    assert len({in_words(n) for n in range(100)}) == 100
    assert len(set(WORDS)) == len(WORDS) == 60


def test_every_answer_is_right_and_every_voice_of_the_part(written):
    folder, counts, said = written
    assert counts == {"align": 12, "instruct": 9, "validation": 9, "test": 9, "ceiling": 9}
    files = ("align", "instruct", "validation", "test")
    parts = ("train", "train", "validation", "test")
    questions, said = SpokenQuestions(), iter(said)
    for name, part in zip(files, parts, strict=True):
        records = read_lines(folder / f"{name}.jsonl")
        assert len(records) == counts[name]
        for record in records:
            words, voice = (utterance := next(said)).text, utterance.voice
            assert voice in getattr(Tones.voices, part)
            sound, written = user_parts(record)
            assert load_audio(folder / sound["audio"], 16000).size > 1000
            assert sound["type"] == "audio" and written["type"] == "text"
            answer = record["messages"][1]["content"]
            if record["kind"] == "transcript":
                assert answer == words
            else:
                known = {i.words: i.answer for i in questions.every(part, record["kind"])}
                assert known[words] == answer
    assert next(said, None) is None
    kinds = [record["kind"] for record in read_lines(folder / "test.jsonl")]
    assert kinds == list(KINDS) * 3


def test_the_ceiling_has_the_words_in_the_place_of_the_sound(written):
    folder, _, said = written
    tests, words = read_lines(folder / "test.jsonl"), said[-9:]
    for record, heard, utterance in zip(
        read_lines(folder / "ceiling.jsonl"), tests, words, strict=True
    ):
        written = user_parts(heard)[1]["text"]
        assert user_parts(record) == f'You hear "{utterance.text}". {written}'
        assert record["messages"][1] == heard["messages"][1] and record["kind"] == heard["kind"]


def test_files_repeat_for_a_seed_and_do_not_depend_on_the_amount_of_others(written, tmp_path):
    folder, _, _ = written
    more = SpokenAmounts(align=2, instruct=9, held_out=3)
    write_spoken(tmp_path / "a", Tones(), SpokenQuestions(), more, seed=3)
    names = ["test.jsonl", "instruct.jsonl", *(f"sounds/test-0000{n}.wav" for n in range(9))]
    same, _, _ = filecmp.cmpfiles(folder, tmp_path / "a", names, shallow=False)
    assert same == names
    write_spoken(tmp_path / "b", Tones(), SpokenQuestions(), more, seed=4)
    assert not filecmp.cmp(folder / "test.jsonl", tmp_path / "b" / "test.jsonl", shallow=False)


def test_held_out_items_repeat_after_all_others_alone():
    items = every_in_turn(SpokenQuestions(), random.Random(0), "test", ("sum", "word"), 130)
    sums, words = items[::2], items[1::2]
    known = SpokenQuestions().every("test", "sum")
    assert len(set(sums[: len(known)])) == len(known) and sums[len(known)] == sums[0]
    assert len(set(words[:60])) == len(set(words)) == 60


def test_a_part_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(WingsError, match="no part 'dev'"):
        save_sounds(tmp_path, "x", Tones(), "dev", ["a"], seed=0)
