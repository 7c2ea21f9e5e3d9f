"""`wings quickstart` from nothing, a few steps of everything, through the code that a user runs."""

import json

import pytest
from forked import Program
from PIL import Image

from wings.examples.quickstart.methods import METHODS
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

# `test_preflight.py` has the preflight.
CODE = """
import sys
from pathlib import Path
from unittest import mock
from wings.examples.quickstart import run
from wings.examples.quickstart.dataset import QuickstartAmounts, QuickstartSize

amounts = QuickstartAmounts(text=300, captions=16, conversations=16, held_out=8)
size = QuickstartSize(amounts, tower_steps=4, llm_steps=4, align_steps=2, instruct_steps=2)
with mock.patch.object(run, "preflight"):
    run.quickstart(Path(sys.argv[1]), seed=3, from_nothing=True, size=size)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder and what was printed. In a process of its own: it forks before torch computes."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = Program("-c", CODE, folder)
    printed, errors = done.communicate()
    assert done.returncode == 0, errors[-3000:]
    return folder, printed


def test_the_folder_holds_everything(run):
    folder, _ = run
    with Image.open(folder / "plot.png") as image:
        assert image.width > 1000
    with Image.open(folder / "showcase/1.png") as image:
        assert image.width == image.height == 256
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "llm").iterdir()
    }
    for method in METHODS:
        assert (folder / "rows" / method.key / "model.safetensors").exists() == method.default


def test_the_commands_to_copy_are_whole_lines(run):
    folder, output = run
    # Longer than a terminal of 80 columns, as pytest's folders are.
    first = folder / "rows" / METHODS[0].key
    lines = [line.strip() for line in output.splitlines()]
    assert f"wings chat {first} --image {folder / 'showcase/1.png'}" in lines
    assert f"wings eval {first} --against {folder / 'llm'}" in lines


def test_results_are_what_was_measured(run):
    folder, output = run
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert results["seed"] == 3 and results["seconds"]["total"] > 0
    assert {"torch", "transformers", "wings-lorra"} <= set(results["versions"])
    for method in (method for method in METHODS if method.default):
        job = results["jobs"][f"row-{method.key}"]
        assert job["rates"] == method.rates and len(job["losses"]) > 0
        for test in ("text", "mixed", "pictures"):
            score = job["scores"][test]
            assert score["total"] == 8
            assert sum(kind["right"] for kind in score["kinds"].values()) == score["right"]
        percent = 100 * job["scores"]["pictures"]["right"] / 8
        assert f"| {method.title} |" in report and f"| {percent:.1f} (" in report
    # The terminal breaks lines where the folder's name happens to end.
    assert "loaded back" in " ".join(output.split()) and "▀" in output


def test_a_checkpoint_loads_and_a_frozen_one_says_of_text_what_the_llm_said(run):
    folder, _ = run
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["jobs"]
    frozen = [method for method in METHODS if method.default and method.llm_rate is None]
    assert frozen
    for method in frozen:
        before, after = results["before"]["text"], results[f"row-{method.key}"]["scores"]["text"]
        assert after == before
    model = WingsForCausalLM.from_pretrained(folder / "rows" / frozen[0].key)
    processor = WingsProcessor.from_pretrained(folder / "rows" / frozen[0].key)
    assert model.config.image_seq_length == processor.image_seq_length
