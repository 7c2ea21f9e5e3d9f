"""The study's rows: trainings that are shared, equal in steps and data, and their recipes."""

import pytest

from wings.errors import WingsError
from wings.examples.senses.rows import (
    AUDIO,
    CHILDREN,
    FIRST,
    IMAGE,
    PRIMARY,
    ROWS,
    RULES,
    TRAININGS,
    needed,
)
from wings.examples.senses.senses_recipes import steps_of
from wings.examples.senses.senses_run import schedule, validate_keys
from wings.examples.senses.senses_size import SensesSize
from wings.merge.methods.registry import find_method

SIZE = SensesSize()


def steps(key):
    """Steps of all trainings of a row."""
    return sum(steps_of(one, SIZE) for one in needed(ROWS[key]))


def test_rows_of_two_senses_have_equal_steps():
    rows = [f"composed-{rule}" for rule in RULES]
    rows += ["joint", "joint-full", "image-audio", "audio-image", "image-audio-full"]
    assert {steps(key) for key in rows} == {sum(SIZE.align_steps.values()) + 2 * SIZE.steps}
    assert steps("composed-more") == steps("joint-more") == steps("joint") + SIZE.more_steps
    for sense in (IMAGE, AUDIO):
        alone = {steps(key) for key in (sense, f"{sense}-full-slow", f"{sense}-full-fast")}
        assert alone == {SIZE.align_steps[sense] + SIZE.steps}


def test_only_rows_with_more_steps_are_trained_on_questions_for_both():
    with_both = {key for key, row in ROWS.items() if any("both" in t.data for t in needed(row))}
    assert with_both == {"composed-more", "joint-more"}
    assert not with_both & {*PRIMARY} and len(FIRST) <= 8 and {*PRIMARY} <= {*FIRST}


def test_every_training_follows_those_it_starts_from():
    for row in ROWS.values():
        names = [one.name for one in needed(row)]
        assert len(names) == len(set(names)) and {*row.model} <= {*names}
        for one in needed(row):
            assert all(names.index(e) < names.index(one.name) for e in one.earlier)
            assert {*one.adds} <= {*one.trains}


def test_merges_are_of_children_that_differ_in_their_sense_alone():
    merged = [row for row in ROWS.values() if row.merge]
    assert len(merged) == 4 and all(row.model == CHILDREN for row in merged)
    for row in merged:
        known = {parameter.name for parameter in find_method(row.merge.method).parameters}
        assert {*row.merge.parameters} <= known
        assert not row.merge.weights or len(row.merge.weights) == 2
    first, second = (TRAININGS[name] for name in CHILDREN)
    assert first.llm_rate == second.llm_rate and not first.learners


def test_a_training_is_one_job_whoever_needs_it(tmp_path):
    jobs = schedule(tuple(ROWS), 0, tmp_path, SIZE)
    keys = [job.key for job in jobs]
    assert len(keys) == len(set(keys)) == len(ROWS) + len(TRAININGS)
    for job in jobs:
        assert {*job.needs} <= {*keys}
    few = [job.key for job in schedule(("audio",), 0, tmp_path, SIZE)]
    assert few == ["training:audio-align", "training:audio", "row:audio"]


def test_an_unknown_row_is_named():
    with pytest.raises(WingsError, match=r"no row 'joined'"):
        validate_keys(["joined"])
