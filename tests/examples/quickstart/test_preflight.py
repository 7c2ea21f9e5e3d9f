"""The quickstart's preflight: a late step that fails ends it before anything is trained."""

import json

import pytest
from forked import Program

from wings.examples.quickstart.comparison import one_of_each_kind
from wings.examples.quickstart.methods import METHODS

# In a process of its own: it forks before torch computes.
CODE = """
import json, random, sys
from pathlib import Path
from unittest import mock
import numpy as np
import torch
from wings.examples.quickstart import comparison, dataset, jobs, methods, report, run

folder = Path(sys.argv[1])
log = folder / "trained"
log.touch()

def broken(*args, **kwargs):
    raise RuntimeError("it broke")

def logged(job, recipe, original=jobs.train_and_report):
    with log.open("a") as file:
        file.write(recipe.output + "\\n")
    return original(job, recipe)

def state():
    return random.random(), np.random.rand(), torch.rand(()).item()

results = {}
# One method is enough: every part is run for each.
with (
    mock.patch.object(jobs, "train_and_report", logged),
    mock.patch.object(methods, "METHODS", methods.METHODS[:1]),
):
    for name, place, attribute in (
        ("generation", jobs.WingsForCausalLM, "generate"),
        ("plot", report, "plot"),
        ("demo", jobs, "answer_last_turns"),
    ):
        with mock.patch.object(place, attribute, broken):
            try:
                run.quickstart(folder / name, seed=3)
            except Exception as error:
                results[name] = [str(error), type(error).__name__, (folder / name).exists()]
    for module in (random, np.random, torch):
        (module.seed if module is not torch else module.manual_seed)(7)
    expected = state()
    for module in (random, np.random, torch):
        (module.seed if module is not torch else module.manual_seed)(7)
    (folder / "whole").mkdir()
    run.preflight(
        folder / "whole",
        comparison.Comparison(methods.METHODS, 3, dataset.QuickstartSize(), from_nothing=True),
    )
    results["state"] = state() == expected
    results["left"] = [path.name for path in (folder / "whole").iterdir()]
results["trained"] = log.read_text().split()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    done = Program("-c", CODE, folder)
    printed, errors = done.communicate()
    assert done.returncode == 0, errors[-3000:]
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("generation", "stage 2: Wings, LLM frozen, text guard"),
        ("plot", "write the report"),
        ("demo", "ask one checkpoint"),
    ],
)
def test_a_late_step_that_fails_is_named(results, name, step):
    sentence, kind, left = results[name]
    assert (sentence, kind) == (f"preflight, {step}: RuntimeError: it broke", "PreflightError")
    assert not left


def test_nothing_was_trained_but_in_the_preflights_own_folders(results):
    assert len(results["trained"]) == 8
    for output in results["trained"]:
        assert "/preflight-" in output


def test_it_leaves_no_files_and_no_random_state(results):
    assert results["left"] == [] and results["state"]


def test_a_method_of_every_kind_is_run():
    chosen = one_of_each_kind(METHODS)
    assert len(chosen) < len(METHODS) and chosen[0] == METHODS[0]
    kinds, run = (
        {(str(method.wings), method.llm_rate is None) for method in methods}
        for methods in (METHODS, chosen)
    )
    assert kinds == run
