"""`wings eval`: killed and going on, on two ranks, and what it refuses before any work is lost."""

import json
import shutil
import signal
import time

import pytest
import torch
from forked import Program, run_ranks
from transformers import ViTConfig

from wings.cli import main
from wings.cli.eval_files import DEFAULT_FILES, generate_items
from wings.eval.provenance import validate_frozen_llm
from wings.examples.conversations import read_lines, write_lines
from wings.examples.quickstart.tiny_llm import make_model
from wings.output_folder import OutputFolder
from wings.processing.processor import WingsProcessor

KINDS = (
    "text", "pictures", "conversations", "after_image", "attention", "drift", "drift_after_image",
)  # fmt: skip


@pytest.fixture
def quick(checkpoint, data, tmp_path):
    """The checkpoint where a quickstart would have left it, beside its own items."""
    row = tmp_path / "quick" / "rows" / "row"
    shutil.copytree(checkpoint, row)
    (tmp_path / "quick" / "data").symlink_to(data)
    return row


def arguments(row, llm, output, *more):
    few = ["--batch-size", "2", "--max-new-tokens", "4"]
    return [
        "eval", str(row), *(("--against", str(llm)) if llm else ()), "--output", str(output),
        *few, *more,
    ]  # fmt: skip


def report(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def cached(folder):
    lines = [
        line
        for path in (folder / "cache").glob("*.jsonl")
        for line in path.read_bytes().split(b"\n")
        if line.endswith(b"}")
    ]
    return [json.loads(line)["key"] for line in lines]


def test_killed_it_goes_on_and_two_ranks_say_what_one_says(quick, llm, tmp_path, capsys):
    """One report three times: in one go; killed in the middle and gone on; on two ranks."""
    assert main(arguments(quick, llm, tmp_path / "one")) == 0
    whole = report(tmp_path / "one")
    assert list(whole["measurements"]) == list(KINDS)
    assert all(whole["measurements"][kind]["kinds"]["all"]["after"]["total"] == 8
               for kind in ("text", "conversations"))  # fmt: skip
    said = capsys.readouterr().out
    assert "Drift on held-out text" in said and "held-out items" in said
    # The verdict is the end.
    starts = [said.rindex(line.partition(":")[0] + ":") for line in whole["verdict"]]
    assert len(starts) == 3 and said.rindex("held-out items") < starts[0]
    assert starts == sorted(starts) and starts[2] < said.index("Everything is in")

    broken = tmp_path / "broken"
    command = ("-m", "wings.cli", *arguments(quick, llm, broken))
    process = Program(*command, CUDA_VISIBLE_DEVICES="")
    while process.poll() is None and (not (broken / "cache").exists() or len(cached(broken)) < 9):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cached(broken)
    assert (
        9 <= len(before) < len(cached(tmp_path / "one")) and not (broken / "report.json").exists()
    )
    code, printed, errors = run_ranks(2, *command, cwd=tmp_path)
    assert code == 0, errors[-3000:]
    both = report(broken)
    assert both["measurements"] == whole["measurements"] and both["processes"] == 2
    everything = cached(broken)
    assert len(set(everything)) == len(everything) == len(cached(tmp_path / "one"))
    assert set(before) < set(everything)
    assert (broken / "cache" / "rank-1.jsonl").stat().st_size > 0
    assert printed.count("Everything is in") == 1


def test_items_made_on_the_spot_ask_for_nothing_that_was_taught(checkpoint, llm, tmp_path):
    made = tmp_path / "out" / "data"
    generate_items(made)
    first = {path.name: path.read_bytes() for path in made.glob("*.jsonl")}
    assert sorted(first) == sorted(DEFAULT_FILES)
    for name in DEFAULT_FILES:
        records = read_lines(made / name)
        assert len(records) >= 180 and "facts" not in {record["kind"] for record in records}
        for record in records:
            for part in record["messages"][0]["content"]:
                assert (
                    isinstance(part, str) or "image" not in part or (made / part["image"]).exists()
                )
    shutil.rmtree(made)
    generate_items(made)
    assert {path.name: path.read_bytes() for path in made.glob("*.jsonl")} == first


def test_given_files_alone_are_asked_and_a_plain_model_is_not_shown_pictures(
    data, llm, tmp_path, capsys
):
    few = tmp_path / "few.jsonl"
    write_lines(few, read_lines(data / "text_held_out.jsonl")[:3])
    files = ["--text", str(few), "--pictures", str(data / "pictures_held_out.jsonl")]
    assert main(arguments(llm, llm, tmp_path / "out", *files)) == 0
    found = report(tmp_path / "out")
    assert list(found["measurements"]) == ["text"]
    assert found["measurements"]["text"]["kinds"]["all"]["difference"]["value"] == 0
    (note,) = found["notes"]
    assert "Pictures are skipped" in note and "plain 'llama' model" in note
    for name in ("model", "llm", "versions", "device", "date", "seeds", "machine", "command"):
        assert found[name]
    assert main(arguments(llm, tmp_path, tmp_path / "out", *files)) == 2
    assert "no model" in capsys.readouterr().err


def test_the_llm_inside_is_taken_only_where_it_stayed_frozen(quick, data, tmp_path, capsys):
    files = ["--text", str(data / "text_held_out.jsonl")]
    config = json.loads((quick / "config.json").read_text(encoding="utf-8"))

    def write(trained, name):
        config["llm_trained"] = trained
        config["text_config"]["_name_or_path"] = name
        (quick / "config.json").write_text(json.dumps(config), encoding="utf-8")

    for trained, name, said in (
        (None, "ORG/NAME", "does not record if its LLM was trained"),
        (True, "ORG/NAME", "Training changed the LLM inside"),
        (True, "", "Training changed the LLM inside"),
    ):
        write(trained, name)
        assert main(arguments(quick, None, tmp_path / "out", *files)) == 2
        error = capsys.readouterr().err
        assert said in error and f"--against {name or 'LLM'}." in error
    write(False, "")
    moved = quick.rename(tmp_path / "moved")
    sentence = validate_frozen_llm(str(moved))
    assert "would not show forgetting" in sentence
    assert main(arguments(moved, None, tmp_path / "out", *files)) == 0
    found = report(tmp_path / "out")
    assert found["notes"] == [sentence] and found["llm"]["name"] == f"the LLM inside {moved}"
    assert found["llm"]["parameters"] < found["model"]["parameters"]


@pytest.mark.parametrize("command", ["eval", "gate", "merge"])
def test_a_folder_of_pictures_without_a_file_is_refused(command, checkpoint, llm, tmp_path, capsys):
    out = tmp_path / "out"
    words = {
        "eval": [str(checkpoint), "--against", str(llm), "--output", str(out)],
        "gate": [str(checkpoint), "--report", str(out)],
        "merge": [str(llm), str(checkpoint), "--sweep", "0,1", "--output", str(out)],
    }
    assert main([command, *words[command], "--images", str(tmp_path)]) == 2
    assert "has no effect without --pictures or --conversations" in capsys.readouterr().err
    assert not out.exists()


def test_what_cannot_be_measured_is_one_sentence(checkpoint, llm, data, tmp_path, capsys):
    text = ["--text", str(data / "text_held_out.jsonl")]
    vit, adapter, cut = tmp_path / "vit", tmp_path / "adapter", tmp_path / "cut"
    ViTConfig(hidden_size=8).save_pretrained(vit)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    shutil.copytree(llm, cut)
    (cut / "model.safetensors").write_bytes((llm / "model.safetensors").read_bytes()[:1000])
    short = tmp_path / "short"
    model = make_model(WingsProcessor.from_pretrained(checkpoint).tokenizer, 1)
    kept_names = {n: t for n, t in model.state_dict().items() if "layers.3" not in n}
    model.save_pretrained(short, state_dict=kept_names)
    busy, other = tmp_path / "busy", tmp_path / "other"
    for folder, name in ((busy, "a.txt"), (other, "report.json")):
        folder.mkdir()
        if folder == other:
            OutputFolder(folder, "wings eval").claim()
        (folder / name).write_text(json.dumps({"inputs": {"checkpoint": "x", "against": "y"}}))
    out = tmp_path / "out"
    for row, against, output, more, said in (
        (tmp_path / "none", llm, out, text, "none"),
        (adapter, llm, out, text, "adapter"),
        (busy, llm, out, text, "no config.json"),
        (vit, llm, out, text, "'vit' model, which cannot be used here: name"),
        (cut, llm, out, text, "cut"),
        (short, llm, out, text, "lacks model.layers.3"),
        (llm, None, out, text, "--against"),
        (checkpoint, checkpoint, out, text, "is a Wings checkpoint; name the LLM"),
        (checkpoint, llm, busy, text, "without a mark of wings eval"),
        (checkpoint, llm, other, text, "report of x against y"),
        (checkpoint, llm, busy / "a.txt", text, "is a file"),
        (checkpoint, llm, out, ["--text", "none.jsonl"], "none.jsonl: no such data file"),
    ):
        assert main(arguments(row, against, output, *more)) == 2, said
        error = capsys.readouterr().err
        assert error.startswith("wings eval: ") and error.count("\n") == 1, error
        assert said in error, error
    assert torch.is_grad_enabled()
