"""The quickstart's preflight: a late step that fails ends it before anything is trained."""

import json
import subprocess
import sys

import pytest

from wings.examples.quickstart.plan import ROWS
from wings.examples.quickstart.preflight import kinds

# In a process of its own: it forks before torch computes.
CODE = """
import json, random, sys
from pathlib import Path
from unittest import mock
import numpy as np
import torch
from wings.examples.quickstart import jobs, plan, preflight, report, run, showcase

folder = Path(sys.argv[1])
log = folder / "trained"
log.touch()

def broken(*args, **kwargs):
    raise RuntimeError("it broke")

def watched(job, recipe, original=jobs.watched):
    with log.open("a") as file:
        file.write(recipe.output + "\\n")
    return original(job, recipe)

def state():
    return random.random(), np.random.rand(), torch.rand(()).item()

found = {}
# One row is enough: every part is run for each.
with mock.patch.object(jobs, "watched", watched), mock.patch.object(plan, "ROWS", plan.ROWS[:1]):
    for name, place, attribute in (
        ("generation", jobs.WingsForCausalLM, "generate"),
        ("plot", report, "plot"),
        ("showcase", jobs, "converse"),
    ):
        with mock.patch.object(place, attribute, broken):
            try:
                run.quickstart(folder / name, seed=3)
            except Exception as error:
                found[name] = [str(error), type(error).__name__, (folder / name).exists()]
    for module in (random, np.random, torch):
        (module.seed if module is not torch else module.manual_seed)(7)
    expected = state()
    for module in (random, np.random, torch):
        (module.seed if module is not torch else module.manual_seed)(7)
    (folder / "whole").mkdir()
    preflight.check(folder / "whole", list(plan.ROWS), 3, False)
    found["state"] = state() == expected
    found["left"] = [path.name for path in (folder / "whole").iterdir()]
found["trained"] = log.read_text().split()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("generation", "stage 2: Wings, LLM frozen, text guard"),
        ("plot", "write the report"),
        ("showcase", "ask one checkpoint"),
    ],
)
def test_a_late_step_that_fails_is_named(found, name, step):
    sentence, kind, left = found[name]
    assert (sentence, kind) == (f"preflight, {step}: RuntimeError: it broke", "PreflightError")
    assert not left


def test_nothing_was_trained_but_in_the_preflights_own_folders(found):
    assert len(found["trained"]) == 8
    for output in found["trained"]:
        assert "/preflight-" in output


def test_it_leaves_no_files_and_no_random_state(found):
    assert found["left"] == [] and found["state"]


def test_a_row_of_every_kind_is_run():
    chosen = kinds(list(ROWS))
    assert len(chosen) < len(ROWS) and chosen[0] == ROWS[0]
    assert {(str(row.wings), row.llm_rate is None) for row in ROWS} == {
        (str(row.wings), row.llm_rate is None) for row in chosen
    }
