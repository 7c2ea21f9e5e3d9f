"""Text questions: answers are right, and what is held out is never trained on."""

import random
import re

from wings.examples.quickstart.texts import KINDS, PEOPLE, World, text_turn


def turns(kind, held_out, count=3000):
    rng, world = random.Random(3), World()
    return [text_turn(world, rng, held_out, kind) for _ in range(count)]


def test_facts_and_numbers_that_are_held_out_are_never_trained_on():
    for kind in ("facts", "arithmetic"):
        trained = {turn.question for turn in turns(kind, False)}
        held_out = {turn.question for turn in turns(kind, True)}
        assert held_out and not trained & held_out


def test_a_held_out_fact_was_told_in_other_words():
    trained = {}
    for turn in turns("facts", False):
        person = next(name for name in PEOPLE if name in turn.question)
        trained.setdefault(person, set()).add(turn.answer)
    for turn in turns("facts", True):
        person = next(name for name in trained if name in turn.question)
        assert turn.answer in trained[person]


def test_numbers():
    for turn in turns("arithmetic", False) + turns("arithmetic", True):
        numbers = [int(n) for n in re.findall(r"\d+", turn.question)]
        right = sum(numbers) if len(numbers) == 2 else numbers[0] + 1
        assert turn.answer == str(right)


def test_instructions():
    for turn in turns("instructions", False):
        order, said = turn.question.split(": ")
        words = said.split()
        right = {
            "Reverse": words[::-1],
            "Repeat": words,
            "First word": words[:1],
            "Last word": words[-1:],
            "Capitals": [word.upper() for word in words],
        }[order]
        assert turn.answer == " ".join(right)


def test_reading_is_about_what_is_told():
    for turn in turns("reading", False, 500):
        told, asked = turn.question.rsplit(". ", 1)
        if asked.startswith("What colour is the") and "picture" not in asked:
            shape = re.fullmatch(r"What colour is the (\w+)\?", asked)[1]
            assert f"{turn.answer} {shape}" in told


def test_kinds_come_by_their_shares_and_the_same_seed_says_the_same():
    first, second = (
        [text_turn(World(), rng, False) for _ in range(400)]
        for rng in (random.Random(2), random.Random(2))
    )
    assert first == second
    counts = {kind: sum(turn.kind == kind for turn in first) for kind in KINDS}
    assert counts["reading"] > counts["arithmetic"] > 0 and counts["facts"] > 0
