"""The harness: a language model has one set of figures, through its stock model and ours."""

import json
import sys

import pytest

pytest.importorskip("lm_eval")

from forked import Program
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_tasks import CHOICES, ROLLING, SAID, on_file

from wings.errors import WingsError
from wings.eval.harness.__main__ import main
from wings.eval.harness.model import WingsLM, register
from wings.eval.harness.tasks import TASK_FILES

PAIRS = [
    ("Two and two", " make four"),
    ("", "A"),
    ("Two and two", " make five, if you are large enough"),
    ("The sea is", " blue"),
    ("A longer text, that needs more room than the others. The sea is", " wet"),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    docs = [
        {"question": f"What is {n}" + " and a bit more" * (n % 3), "gold": n % 3,
         "choices": ["red", "green and blue", f"number {n}"]}
        for n in range(11)
    ]  # fmt: skip
    tasks = {"tiny_choices": CHOICES, "tiny_text": ROLLING, "tiny_said": SAID}
    return [on_file(task, name, folder / f"{name}.jsonl", docs) for name, task in tasks.items()]


def measured(model, tasks):
    found = simple_evaluate(
        model,
        tasks=[dict(task) for task in tasks],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),  # else it reads thousands of files
    )
    said = {
        name: [(sample["resps"], sample["filtered_resps"]) for sample in samples]
        for name, samples in found["samples"].items()
    }
    figures = {
        name: {key: value for key, value in of.items() if key != "alias"}
        for name, of in found["results"].items()
    }
    return said, figures


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_digit_is_that_of_the_stock_model(llm, guarded, tasks, batch_size):
    stock = measured(HFLM(str(llm), device="cpu", batch_size=batch_size), tasks)
    assert set(stock[1]) == {"tiny_choices", "tiny_text", "tiny_said"}
    for folder in (llm, guarded):
        assert measured(WingsLM(str(folder), device="cpu", batch_size=batch_size), tasks) == stock


def test_learners_that_speak_in_text_are_measured(llm, unguarded, tasks):
    stock = measured(HFLM(str(llm), device="cpu", batch_size=4), tasks)
    learned = measured(WingsLM(str(unguarded), device="cpu", batch_size=4), tasks)
    assert learned[0]["tiny_choices"] != stock[0]["tiny_choices"]
    assert learned[0]["tiny_said"] != stock[0]["tiny_said"]


def ask(model, pairs):
    return model.loglikelihood(
        [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)], disable_tqdm=True
    )


def test_rows_of_a_batch_do_not_change_each_other(unguarded):
    one = ask(WingsLM(str(unguarded), device="cpu", batch_size=1), PAIRS)
    all_ = ask(WingsLM(str(unguarded), device="cpu", batch_size=8), PAIRS)
    for (alone, _), (together, _) in zip(one, all_, strict=True):
        assert alone == pytest.approx(together, abs=2e-4)


def test_a_picture_that_is_only_spelled_is_letters(llm, unguarded):
    pairs = [("Write <image> here", " <image>"), ("Write it", " now")]
    bare, ours = HFLM(str(llm), device="cpu"), WingsLM(str(unguarded), device="cpu", batch_size=2)
    assert ours.tok_encode("a <image>") == bare.tok_encode("a <image>")
    ids, mask = ours.tok_batch_encode(["a <image>", "b"])
    assert ids.shape == mask.shape == (2, 9) and mask.sum(1).tolist() == [9, 1]
    assert all(value < 0 for value, _ in ask(ours, pairs))
    requests = [
        Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 4}), n)
        for n, text in enumerate(["Say <image>", "Say it"])
    ]
    assert len(ours.generate_until(requests, disable_tqdm=True)) == 2


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WingsError, match=r"No language model can be loaded from '/nowhere'"):
        WingsLM("/nowhere", device="cpu")
    with pytest.raises(WingsError, match="No language model can be loaded"):
        WingsLM(str(tmp_path), device="cpu")


def test_the_harness_finds_it_by_name():
    register()
    register()
    assert get_model("wings") is WingsLM and issubclass(get_model("hf"), HFLM)


def test_its_command_line_knows_wings(llm, guarded, tasks, tmp_path):
    import yaml

    (tmp_path / "choices.yaml").write_text(yaml.safe_dump(tasks[0]))
    options = ["--tasks", "tiny_choices", "--include_path", str(tmp_path), "--batch_size", "4"]
    command = ["-m", "wings.eval.harness", "--model", "wings", "--device", "cpu"]
    command += ["--model_args", f"pretrained={guarded}", *options, "--output_path"]
    done = Program(*command, tmp_path / "out.json", "--log_samples", HF_HUB_OFFLINE="1")
    printed, errors = done.communicate()
    assert done.returncode == 0, errors[-2000:]
    assert "tiny_choices" in printed
    (path,) = tmp_path.rglob("out*.json")
    found = json.loads(path.read_text())["results"]["tiny_choices"]
    _, stock = measured(HFLM(str(llm), device="cpu", batch_size=4), tasks[:1])
    assert found["acc,none"] == stock["tiny_choices"]["acc,none"]


def test_what_is_refused_is_one_sentence_on_the_command_line(monkeypatch, capsys):
    from lm_eval import __main__ as harness

    seen = []

    def fail():
        seen.extend(sys.argv)
        raise WingsError("there is no such model")

    monkeypatch.setattr(harness, "cli_evaluate", fail)
    monkeypatch.setattr(sys, "argv", ["lm_eval", "--tasks", "mmlu"])
    assert main() == 2
    assert capsys.readouterr().err == "lm_eval: there is no such model\n"
    # Tasks that ship are at hand unless others are named.
    assert seen[3:] == ["--include_path", str(TASK_FILES)]
    seen.clear()
    monkeypatch.setattr(sys, "argv", ["lm_eval", "-t", "mmlu", "--include_path=mine"])
    main()
    assert seen == ["lm_eval", "-t", "mmlu", "--include_path=mine"]
