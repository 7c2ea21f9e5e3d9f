"""`wings gate`: curve, chosen gate, saved checkpoint, resuming, and refusals."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image

from wings import WingsForCausalLM
from wings.cli import main
from wings.cli.gate import show
from wings.cli.terminal import make_console
from wings.eval.gates.gate_curve import GateCurve, GateResult
from wings.eval.gates.gate_setting import GateSetting
from wings.eval.provenance import validate_frozen_llm
from wings.eval.scoring.accuracy import Accuracy
from wings.layers.router import AttendedRouter
from wings.model.causal_lm import WingsForCausalLM as Model
from wings.output_folder import OutputFolder


@pytest.fixture
def guarded(checkpoint, tmp_path):
    """The small checkpoint without a router, its text learners guarded, its LLM frozen."""
    folder = tmp_path / "guarded"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"text_guard": True, "llm_trained": False}
    (folder / "config.json").write_text(json.dumps(config))
    model = WingsForCausalLM.from_pretrained(folder, router=None)
    model.save_pretrained(folder)
    return folder


def arguments(checkpoint, data, folder, *more):
    files = ["--pictures", str(data / "pictures_held_out.jsonl")]
    files += ["--conversations", str(data / "mixed_held_out.jsonl")]
    values = ["--gains", "8", "1", "--taus", "0.1", "--max-new-tokens", "4"]
    return ["gate", str(checkpoint), *files, *values, "--report", str(folder), *more]


def test_a_checkpoint_gets_the_chosen_gate_and_an_interrupted_run_goes_on(
    guarded, data, tmp_path, capsys, monkeypatch
):
    folder, output = tmp_path / "report", tmp_path / "gated"
    command = arguments(guarded, data, folder, "--output", str(output))
    asked, saved = [], []
    original = Model.generate

    def counted(model, *args, **kwargs):
        asked.append(1)
        # Interrupted in the fourth setting.
        if len(asked) == 6:
            raise KeyboardInterrupt
        return original(model, *args, **kwargs)

    place = OutputFolder.place

    def stopped(target, draft, last=""):
        saved.append(1)
        # Interrupted when all but the last file is in its place.
        if last and len(saved) == 1:
            (draft / last).rename(tmp_path / last)
            place(target, draft)
            raise KeyboardInterrupt
        place(target, draft, last)

    monkeypatch.setattr(Model, "generate", counted)
    monkeypatch.setattr(OutputFolder, "place", stopped)
    assert main(command) == 130 and not output.exists()
    assert main(command) == 130 and (output / "model.safetensors").is_file()
    assert main(command) == 0
    # Nine batches and the one that was interrupted: nothing is asked twice.
    assert len(asked) == 10
    document = json.loads((folder / "gate.json").read_text())
    names = [(one["gate"], one["value"]) for one in document["results"]]
    assert names == [("none", None), ("off", None), ("tanh", 8), ("tanh", 1), ("hill", 0.1)]
    assert all(one["text_after_image"]["total"] == 8 for one in document["results"])
    with (folder / "gate.csv").open(newline="") as file:
        assert sum(int(row["chosen"]) for row in csv.DictReader(file)) == 1
    with Image.open(folder / "gate.png") as image:
        assert image.width > 900
    chosen = document["chosen"]
    model = WingsForCausalLM.from_pretrained(output)
    if chosen["gate"] == "none":
        assert model.config.router is None
    else:
        assert model.config.gate_shape == chosen["gate"]
        for part in model.modules():
            if isinstance(part, AttendedRouter):
                assert part.values()["image"] == pytest.approx(chosen["value"], rel=1e-4)
    before = WingsForCausalLM.from_pretrained(guarded)
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert "kept frozen" in validate_frozen_llm(str(output))
    assert (output / "processor_config.json").is_file()
    said = capsys.readouterr().out
    ending = "No gate is better" if chosen["gate"] in ("none", "saved") else "Chosen:"
    assert ending in said and "learners off in text turns" in said
    assert main(command) == 2
    assert "has a checkpoint; choose a new folder" in capsys.readouterr().err

    # The gated checkpoint can be gated again; what it is saved with is a candidate.
    again = arguments(output, data, tmp_path / "second")
    if chosen["gate"] != "none":
        assert main(again) == 0
        results = json.loads((tmp_path / "second" / "gate.json").read_text())["results"]
        assert results[0]["gate"] == "saved"


def test_a_saved_gate_is_the_first_candidate_and_the_same_as_put_on(guarded, data, tmp_path):
    model = WingsForCausalLM.from_pretrained(guarded, router="attended")
    model.set_gate(gain=8.0)
    model.save_pretrained(guarded)
    assert main(arguments(guarded, data, tmp_path / "report")) == 0
    results = json.loads((tmp_path / "report" / "gate.json").read_text())["results"]
    assert [one["gate"] for one in results] == ["saved", "none", "off", "tanh", "tanh", "hill"]
    saved, gain = results[0], results[3]
    assert saved["text_after_image"] == gain["text_after_image"]
    assert saved["pictures"] == gain["pictures"]


def test_without_files_questions_are_generated_that_no_test_has(guarded, tmp_path, monkeypatch):
    monkeypatch.setattr("wings.cli.eval_files.ITEMS", 6)
    folder = tmp_path / "report"
    command = ["gate", str(guarded), "--gains", "8", "--taus", "0.1", "--report", str(folder)]
    assert main([*command, "--max-new-tokens", "2"]) == 0
    mixed = (folder / "data" / "mixed_held_out.jsonl").read_text()
    from wings.cli.eval_files import generate_items

    generate_items(tmp_path / "test")
    assert mixed and mixed != (tmp_path / "test" / "mixed_held_out.jsonl").read_text()


def test_what_cannot_be_gated_is_one_sentence(checkpoint, guarded, llm, data, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(guarded, bare)
    WingsForCausalLM.from_pretrained(guarded, learners=()).save_pretrained(bare)
    report = tmp_path / "report"
    for folder, more, said in (
        (tmp_path / "none", (), "There is no folder"),
        (llm, (), "is no Wings checkpoint"),
        (bare, (), "no learners and no adapters to gate"),
        (checkpoint, (), "without text_guard"),
        (guarded, ("--output", str(guarded)), "choose a new or empty folder"),
        (guarded, ("--pictures", "none.jsonl"), "none.jsonl: no such data file"),
        (guarded, ("--report", str(guarded / "config.json")), "is a file"),
    ):
        assert main([*arguments(folder, data, report), *more]) == 2, said
        error = capsys.readouterr().err
        assert error.startswith("wings gate: ") and error.count("\n") == 1, error
        assert said in error, error
    one = ["gate", str(guarded), "--pictures", str(data / "pictures_held_out.jsonl")]
    assert main(one) == 2
    assert "--conversations, or none" in capsys.readouterr().err


def test_the_ending_says_if_no_gate_is_better(capsys):
    def result(gate, value, text):
        setting = GateSetting(gate, value)
        return GateResult(setting, {"a": Accuracy(text, 100)}, {"b": Accuracy(50, 100)})

    open_, tanh = result("none", None, 60), result("tanh", 8.0, 70)
    show(make_console(), GateCurve([open_, tanh], 2.0))
    said = " ".join(capsys.readouterr().out.split())
    assert "Chosen: tanh, gain 8, the most text after an image with at least 48.0% of" in said
    show(make_console(), GateCurve([open_, result("tanh", 8.0, 50)], 2.0))
    said = " ".join(capsys.readouterr().out.split())
    assert "No gate is better: without one the model gets 60.0% of text after an image" in said
