"""`wings merge --sweep`: the front, resuming, the chosen recipe, and refusals."""

import csv
import json
import shutil

import pytest
import torch
from forked import run_ranks
from transformers import AutoModelForCausalLM

from wings import WingsForCausalLM
from wings.cli import main, merge_sweep
from wings.cli.terminal import make_console
from wings.eval.data import EvalFiles, read_data
from wings.eval.fronts.front import Front, FrontResult
from wings.eval.fronts.questions import FrontQuestions
from wings.eval.generate import answer_items
from wings.eval.scoring.score import score_all
from wings.processing.processor import WingsProcessor


def files(data):
    return [
        "--text", str(data / "text_held_out.jsonl"),
        "--pictures", str(data / "pictures_held_out.jsonl"),
        "--conversations", str(data / "mixed_held_out.jsonl"),
    ]  # fmt: skip


def command(llm, checkpoint, data, output, *more):
    values = ["--sweep", "0,.5,...,1", "--max-new-tokens", "4", "--batch-size", "3"]
    return ["merge", str(llm), str(checkpoint), *values, *files(data), "--output", output, *more]


@pytest.fixture(scope="module")
def folder(llm, checkpoint, data, tmp_path_factory):
    """The front of a sweep that was stopped twice, and how often models answered."""
    output = tmp_path_factory.mktemp("sweep") / "front"
    asked = []
    original = WingsForCausalLM.generate

    def counted(model, *args, **kwargs):
        asked.append(1)
        if len(asked) in (5, 16):
            raise KeyboardInterrupt
        return original(model, *args, **kwargs)

    arguments = command(llm, checkpoint, data, str(output), "--beside", str(checkpoint))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WingsForCausalLM, "generate", counted)
        assert main(arguments) == 130
        assert main(arguments) == 130
        assert not (output / "front.json").exists()
        assert main(arguments) == 0
    return output, len(asked)


def test_it_goes_on_where_it_stopped(folder):
    # The child's own answers serve for the model beside it and for weight 1: three models of three
    # tests of three batches, and the two that were stopped.
    assert folder[1] == 3 * 9 + 2


def test_every_point_is_measured_with_the_merged_weights(folder, llm, checkpoint, data, tmp_path):
    document = json.loads((folder[0] / "front.json").read_text())["front"]
    assert [one["name"] for one in document["merges"]] == ["weight 0", "weight 0.5", "weight 1"]
    items = read_data(EvalFiles(pictures=[data / "pictures_held_out.jsonl"])).pictures
    merged = tmp_path / "merged"
    assert (
        main(["merge", str(llm), str(checkpoint), "--weight", ".5", "--output", str(merged)]) == 0
    )
    model = WingsForCausalLM.from_pretrained(merged)
    processor = WingsProcessor.from_pretrained(merged)
    answers = answer_items(model, processor, items, batch_size=3, max_new_tokens=4)
    assert document["merges"][1]["scores"]["pictures"] == score_all(items, answers)
    assert document["merges"][2]["scores"] == document["child"]["scores"]
    assert document["others"][0]["scores"] == document["child"]["scores"]
    kl = [answer["alone"] for answer in document["merges"][0]["kl"]]
    assert len(kl) == sum(
        part == "report" for part in document["questions"]["conversations"]["parts"]
    )


def test_the_files_agree(folder):
    output = folder[0]
    document = json.loads((output / "front.json").read_text())
    with (output / "front.csv").open() as file:
        lines = list(csv.DictReader(file))
    names = ["the LLM", "weight 0", "weight 0.5", "weight 1", "the child, unmerged"]
    assert [line["model"] for line in lines[:10:2]] == names
    chosen = {line["model"] for line in lines if line["chosen"] == "1"}
    assert chosen == {document["front"]["chosen"]}
    assert (output / "front.png").stat().st_size > 10_000
    assert (output / "merge.yaml").is_file() == ("weight" in document["front"]["chosen"])


def test_two_processes_make_the_same_front(folder, llm, checkpoint, data, tmp_path):
    words = command(llm, checkpoint, data, "front", "--beside", str(checkpoint))
    code, printed, errors = run_ranks(2, "-m", "wings.cli", *words, cwd=tmp_path)
    assert code == 0, errors[-3000:]
    one, two = (
        json.loads((output / "front.json").read_text())["front"]
        for output in (folder[0], tmp_path / "front")
    )
    assert one == two and printed.count("The front is in") == 1
    assert (tmp_path / "front" / "cache" / "rank-1.jsonl").stat().st_size > 0


def test_the_chosen_recipe_merges(llm, checkpoint, tmp_path, capsys):
    from wings.merge.recipe_of_command import recipe_of_command

    recipe = recipe_of_command([str(llm), str(checkpoint)], "linear", [0.25], {}, None, None)
    merge_sweep.write_chosen(make_console(), [recipe], tmp_path / "merge.yaml")
    printed = capsys.readouterr().out
    assert f"wings merge --config {tmp_path / 'merge.yaml'} --output merged" in printed
    outputs = []
    for n, arguments in enumerate(
        (["--config", str(tmp_path / "merge.yaml")], [str(llm), str(checkpoint), "--weight", ".25"])
    ):
        assert main(["merge", *arguments, "--output", str(tmp_path / str(n))]) == 0
        outputs.append(WingsForCausalLM.from_pretrained(tmp_path / str(n)).state_dict())
    assert all(torch.equal(tensor, outputs[1][name]) for name, tensor in outputs[0].items())
    merge_sweep.write_chosen(make_console(), [], tmp_path / "merge.yaml")
    assert not (tmp_path / "merge.yaml").exists()


def test_it_says_what_was_chosen_and_what_that_costs(data, capsys):
    given = EvalFiles([data / "text_held_out.jsonl"], [data / "pictures_held_out.jsonl"])
    questions = FrontQuestions.split(read_data(given))

    def result(name, text, pictures, value=None):
        counts = {test: len(items) for test, items in questions.items.items()}
        shares = {"text": text, "pictures": pictures}
        return FrontResult(
            name, value, {test: [shares[test]] * count for test, count in counts.items()}
        )

    child, llm = result("the child", 0.5, 0.8), result("the LLM", 1.0, 0.0)
    better = Front(questions, llm, child, [result("weight 0.5", 0.75, 0.79, 0.5)], [], 2.0)
    merge_sweep.show(make_console(width=200), better)
    printed = capsys.readouterr().out
    assert "Chosen: weight 0.5, the most text with at least 78.0% of pictures" in printed
    assert "text alone +25.0 (25.0, 25.0), pictures -1.0 (-1.0, -1.0)" in printed
    worse = Front(questions, llm, child, [result("weight 0.5", 0.9, 0.1, 0.5)], [], 2.0)
    merge_sweep.show(make_console(width=200), worse)
    assert "No merge is better: the child itself has the most text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sweep", "0,a"], "'a' is no number"),
        (["--sweep", "t=1"], "linear has no number 't'"),
        (["--sweep", "0,2"], "add up to 2"),
        (["--beside", "nowhere/at-all"], "nowhere/at-all"),
        (["--text", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    llm, checkpoint, data, tmp_path, capsys, monkeypatch, change, said
):
    # The variable is read when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = tmp_path / "front"
    assert main(command(llm, checkpoint, data, str(output), *change)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not output.exists()


def test_a_child_without_pictures_is_refused(llm, data, tmp_path, capsys):
    child = shutil.copytree(llm, tmp_path / "child")
    model = AutoModelForCausalLM.from_pretrained(llm)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1)
    model.save_pretrained(child)
    assert main(command(llm, child, data, str(tmp_path / "front"))) == 2
    assert "takes no pictures, and a sweep weighs pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--text", "a.jsonl"], ["--beside", "m"], ["--batch-size", "2"]]
)
def test_options_of_a_sweep_are_refused_without_one(llm, checkpoint, tmp_path, capsys, option):
    arguments = ["merge", str(llm), str(checkpoint), "--weight", ".5", *option]
    assert main([*arguments, "--output", str(tmp_path / "merged")]) == 2
    assert f"{option[0]} has an effect on a sweep only" in capsys.readouterr().err
