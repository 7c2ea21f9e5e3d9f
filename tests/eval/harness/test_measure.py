"""`wings eval --tasks`: tasks of the harness before and after, document by document."""

import json

import pytest

pytest.importorskip("lm_eval")

import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tiny_tasks import CHOICES, ROLLING, SAID, on_file

from wings.cli import main
from wings.errors import WingsError
from wings.eval.harness import measure
from wings.eval.harness import tasks as tasks_module
from wings.eval.harness.measure import measure_tasks
from wings.eval.harness.tasks import ChosenTasks, choose_tasks
from wings.eval.models import load_eval_model
from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner

TASKS = {"tiny_red": CHOICES, "tiny_blue": CHOICES, "tiny_said": SAID, "tiny_text": ROLLING}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Task files on questions of their own, two of them a group."""
    folder = tmp_path_factory.mktemp("tasks")
    for number, (name, task) in enumerate(TASKS.items()):
        docs = [
            {"question": f"What is {chr(100 + n)} and " + "ef gh"[n % 5 :],
             "gold": (n + number) % 3, "choices": ["a", "b", "c"]}
            for n in range(9 + 4 * number)
        ]  # fmt: skip
        config = on_file(task, name, folder / f"{name}.jsonl", docs)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    group = {"group": "tiny_colours", "task": ["tiny_red", "tiny_blue"]}
    (folder / "tiny_colours.yaml").write_text(yaml.safe_dump(group))
    return folder


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    """The stock tasks are thousands of files, which are of no use here."""
    plain = tasks_module.TaskManager
    monkeypatch.setattr(
        tasks_module, "TaskManager", lambda **named: plain(include_defaults=False, **named)
    )


@pytest.fixture
def runner(tmp_path):
    processes = Processes()
    return EvalRunner(processes, ResultCache(tmp_path / "cache", processes), batch_size=4)


def subjects(*folders):
    return [load_eval_model(str(folder), torch.device("cpu")) for folder in folders]


def own_figures(path, folder, name):
    """What the harness itself says of a model."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    args = {"pretrained": str(path), "device": "cpu"}
    found = simple_evaluate(
        "hf", args, tasks=[name], task_manager=manager, bootstrap_iters=0, batch_size=4
    )
    return found["results"][name]


def test_figures_are_those_of_the_harness_document_by_document(
    llm, unguarded, folder, runner, monkeypatch, tmp_path, capfd
):
    # In no repository, where git would complain.
    monkeypatch.chdir(tmp_path)
    before, after = subjects(llm, unguarded)
    tasks = choose_tasks(["tiny_colours", "tiny_said", "tiny_text"], [folder])
    found = measure_tasks(before, after, tasks, runner)
    assert "not a git repository" not in capfd.readouterr().err
    figures = found.to_dict()
    assert list(figures["rows"]) == [
        "tiny_colours, acc", "tiny_colours, acc_norm", "tiny_said, exact_match"
    ]  # fmt: skip
    for name in ("tiny_red", "tiny_blue"):
        own = own_figures(llm, folder, name)
        for metric in ("acc", "acc_norm"):
            ours = figures["tasks"][f"{name}, {metric}"]["before"]["percent"]
            assert ours == pytest.approx(100 * own[f"{metric},none"])
    # A group counts each document once, whatever its task.
    pooled = figures["rows"]["tiny_colours, acc"]
    marks = [
        [x for name in ("tiny_red", "tiny_blue") for x in figures["documents"][f"{name}, acc"][who]]
        for who in ("before", "after")
    ]
    assert len(marks[0]) == 9 + 13 and pooled["before"]["total"] == 22
    assert pooled["before"]["right"] == sum(marks[0])
    assert pooled["lost"] == sum(a < b for b, a in zip(*marks, strict=True))
    assert pooled["won"] == sum(a > b for b, a in zip(*marks, strict=True))
    assert pooled["lost"] + pooled["won"] > 0
    assert pooled["difference"]["value"] == pytest.approx(
        100 * (sum(marks[1]) - sum(marks[0])) / 22
    )
    # Perplexity is no share of documents.
    assert "word_perplexity of tiny_text" in found.notes[0]
    section = found.section()
    assert [row[0] for row in section.rows[1:]] == list(figures["rows"])
    samples = found.samples()
    assert len(samples) == 10 and all(sample.turns[0][1].startswith("Q: ") for sample in samples)
    choices = [sample for sample in samples if sample.kind in ("tiny_red", "tiny_blue")]
    assert choices
    for sample in choices:
        assert sample.right == (sample.before == sample.answer, sample.after == sample.answer)
    json.dumps(figures)


def test_the_guard_loses_no_document_and_a_break_loses_no_task(
    llm, guarded, folder, runner, monkeypatch
):
    before, after = subjects(llm, guarded)
    tasks = choose_tasks(["tiny_red", "tiny_said"], [folder])
    found = measure_tasks(before, after, tasks, runner)
    for name, both in found.to_dict()["documents"].items():
        assert both["before"] == both["after"], name

    def asked(*args, **named):
        raise AssertionError("a finished task was asked again")

    monkeypatch.setattr(measure, "simple_evaluate", asked)
    processes = Processes()
    again = EvalRunner(processes, ResultCache(runner.cache.path.parent, processes), batch_size=4)
    assert measure_tasks(before, after, tasks, again).to_dict() == found.to_dict()
    # A task file that says something else is another task.
    path = folder / "tiny_red.yaml"
    old = path.read_text()
    try:
        path.write_text(old.replace("Q: ", "Question: "))
        with pytest.raises(AssertionError, match="asked again"):
            measure_tasks(before, after, choose_tasks(["tiny_red"], [folder]), again)
    finally:
        path.write_text(old)


def test_what_cannot_be_asked_is_a_sentence(folder, tmp_path):
    with pytest.raises(WingsError, match=r"tiny_rde is no task.*tiny_red"):
        choose_tasks(["tiny_rde"], [folder])
    with pytest.raises(WingsError, match="nowhere is no folder"):
        choose_tasks(["tiny_red"], [tmp_path / "nowhere"])
    config = yaml.safe_load((folder / "tiny_red.yaml").read_text())
    (tmp_path / "runs.yaml").write_text(
        yaml.safe_dump({**config, "task": "runs", "unsafe_code": True})
    )
    with pytest.raises(WingsError, match="executes code that a model wrote"):
        choose_tasks(["runs"], [tmp_path])
    config["dataset_kwargs"] = {"data_files": {"test": str(tmp_path / "gone.jsonl")}}
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump({**config, "task": "gone"}))
    with pytest.raises(WingsError, match=r"gone cannot be loaded .*gone\.jsonl"):
        choose_tasks(["gone"], [tmp_path])


def test_one_command_reports_tasks(llm, guarded, folder, tmp_path, capsys):
    given = ["eval", str(guarded), "--against", str(llm), "--output", str(tmp_path / "report")]
    given += ["--include-path", str(folder)]
    assert main(given) == 2
    assert "--tasks" in capsys.readouterr().err
    assert main([*given, "--tasks", "tiny_colours"]) == 0
    assert "tiny_colours, acc_norm" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["inputs"]["files"]["tasks"] == ["tiny_colours"]
    assert list(report["measurements"]) == ["tasks"]
    row = report["measurements"]["tasks"]["rows"]["tiny_colours, acc"]
    assert row["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "tiny_colours, acc_norm" in page and "What is" in page


def test_tasks_have_one_identity_wherever_they_are_read(folder):
    first, second = (choose_tasks(["tiny_red"], [folder]) for _ in range(2))
    assert isinstance(first, ChosenTasks)
    assert first.identity("tiny_red") == second.identity("tiny_red")
