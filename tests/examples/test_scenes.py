"""Drawn pictures: the same seed, the same pixels, and answers that hold for the pixels."""

import random
import re

import numpy as np
import pytest

from wings.examples.scenes import (
    COLOURS,
    NUMBERS,
    PAINT,
    PLACES,
    SHAPES,
    draw,
    make_scene,
    question,
    question_of_two,
    two_scenes,
)

SIDE = 128  # large enough to measure a shape


def read_picture(pixels):
    """(shape, colour, place) of every thing, from the pixels alone."""
    ground = pixels[SIDE // 2, 0].astype(int)
    found = []
    for number, place in enumerate(PLACES):
        y, x = SIDE // 2 * (number // 2), SIDE // 2 * (number % 2)
        quarter = pixels[y : y + SIDE // 2, x : x + SIDE // 2].astype(int)
        inked = np.abs(quarter - ground).sum(-1) > 60
        if inked.sum() < 50:
            continue
        ys, xs = np.nonzero(inked)
        top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
        box = inked[top:bottom, left:right]
        middle = np.median(quarter[inked], axis=0)
        colour = min(PAINT, key=lambda name: np.abs(middle - np.array(PAINT[name])).sum())
        found.append((shape_of(box), colour, place))
    return found


def shape_of(box):
    """The shape in a box that fits it: by its middle, how full it is, what turning it over does."""
    height, width = box.shape
    if not box[height // 2, width // 2]:
        return "ring"
    fill, upper, lower = box.mean(), box[: height // 2].mean(), box[height // 2 :].mean()
    if fill > 0.95:
        return "square"
    if fill > 0.7:
        return "circle"
    if lower > 2 * upper:
        return "triangle"
    return "cross" if (box == box[::-1]).mean() > 0.93 else "star"


def answer_from(things, asked):
    """The answer to a question about things, by other code than the one that asked."""
    if found := re.fullmatch(r"What is (\S+)\?", asked):
        (thing,) = (t for t in things if t[2] == found[1])
        return f"{thing[1]} {thing[0]}"
    if found := re.fullmatch(r"What colour is the (\w+)\?", asked):
        (thing,) = (t for t in things if t[0] == found[1])
        return thing[1]
    if found := re.fullmatch(r"Where is the (\w+)\?", asked):
        (thing,) = (t for t in things if t[0] == found[1])
        return thing[2]
    if asked == "How many shapes are there?":
        return NUMBERS[len(things)]
    if found := re.fullmatch(r"How many shapes are (\w+)\?", asked):
        return NUMBERS[[t[1] for t in things].count(found[1])]
    found = re.fullmatch(r"What shape is (\w+)\?", asked)
    (thing,) = (t for t in things if t[1] == found[1])
    return thing[0]


def test_the_same_seed_draws_the_same_pixels():
    first, second = (
        [draw(make_scene(rng)).tobytes() for _ in range(20)]
        for rng in (random.Random(5), random.Random(5))
    )
    assert first == second
    assert len(set(first)) == 20


@pytest.mark.parametrize("seed", range(60))
def test_a_picture_shows_what_its_scene_says_and_answers_hold_for_the_pixels(seed):
    rng = random.Random(seed)
    scene = make_scene(rng)
    seen = read_picture(np.asarray(draw(scene, SIDE)))
    assert seen == list(scene.things)
    for _ in range(5):
        turn = question(scene, rng)
        assert turn.answer == answer_from(seen, turn.question)


def test_questions_about_two_pictures_name_the_right_one():
    rng, kinds = random.Random(1), set()
    for _ in range(80):
        scenes = two_scenes(rng)
        turn = question_of_two(scenes, rng)
        if found := re.fullmatch(r"Which picture has a (\w+)\?", turn.question):
            holds = [any(t[0] == found[1] for t in scene.things) for scene in scenes]
            assert holds == [turn.answer == "first", turn.answer == "second"]
        else:
            which = "first" if " in the first picture" in turn.question else "second"
            asked = turn.question.replace(f" in the {which} picture", "")
            things = scenes[which == "second"].things
            assert turn.answer == answer_from(things, asked)
        kinds.add(turn.question.split()[0])
    assert kinds >= {"Which", "What", "Where", "How"}


def test_every_shape_colour_and_place_is_drawn():
    rng = random.Random(0)
    things = [thing for _ in range(200) for thing in make_scene(rng).things]
    for n, every in enumerate((SHAPES, COLOURS, PLACES)):
        assert {thing[n] for thing in things} == set(every)
