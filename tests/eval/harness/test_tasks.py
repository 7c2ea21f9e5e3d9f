"""Task files: the paper's by their names, local ones with data, and stock ones on local files."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval")

import datasets
from forked import Program
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from wings.errors import WingsError
from wings.eval.builtin.tasks import TASKS as LOCAL
from wings.eval.harness.model import WingsLM
from wings.eval.harness.offline import GROUP, write_tasks
from wings.eval.harness.task_names import validate_task_names
from wings.eval.harness.tasks import PAPER, TASK_FILES, checked, document

ROOT = Path(__file__).parents[3]
# One record in the own format of each: choices in a struct, beside each other, in a text that
# Python reads, with a function over the whole set; and two that are generated.
FILES = {
    "arc_easy/test": {
        "question": "What melts ice?", "answerKey": "B",
        "choices": {"label": ["A", "B"], "text": ["cold", "heat"]},
    },
    "piqa/validation": {"goal": "Open a jar", "sol1": "twist", "sol2": "wait", "label": 0},
    "race/test": {
        "article": "A cat sat.",
        "problems": "[{'question': 'Who sat?', 'answer': 'A', 'options': ['cat', 'b', 'c', 'd']}]",
    },
    "hellaswag/validation": {
        "ctx_a": "A man", "ctx_b": "he", "activity_label": "Run", "label": "1",
        "endings": ["flies.", "runs.", "sits.", "eats."],
    },
    "mmlu_anatomy/test": {"question": "Bones?", "choices": ["1", "206", "3", "4"], "answer": 1},
    "gsm8k/train": {"question": "One and one?", "answer": "1+1\n#### 2"},
    "gsm8k/test": {"question": "Two and two?", "answer": "2+2\n#### 4"},
    "ifeval/train": {
        "key": 1, "prompt": "Write no comma.", "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def stock():
    """The index of the stock tasks: thousands of files, read once."""
    return TaskManager(include_path=str(TASK_FILES))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def lay(folder, files):
    for name, record in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for _ in range(6)))
    return folder


def test_the_papers_tasks_are_stock_tasks(stock):
    group = stock.task_index["wings_paper"].cfg
    assert group["task"] == list(PAPER.values())
    assert set(PAPER.values()) <= set(stock.all_tasks)


def test_stock_tasks_run_on_local_files(stock, guarded, tmp_path):
    data = lay(tmp_path / "data", FILES)
    names = write_tasks(data, stock)
    assert names == sorted({name.partition("/")[0] for name in FILES})
    manager = TaskManager(include_path=str(data), include_defaults=False)
    found = simple_evaluate(
        WingsLM(str(guarded), device="cpu", batch_size=4),
        tasks=[GROUP],
        task_manager=manager,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": 8},
    )
    counts = {name: count["original"] for name, count in found["n-samples"].items()}
    assert counts == dict.fromkeys(names, 6)
    prompts = {name: of[0]["arguments"][0][0] for name, of in found["samples"].items()}
    assert prompts["arc_easy"] == "Question: What melts ice?\nAnswer:"
    assert prompts["hellaswag"] == "Run: A man He"
    assert prompts["gsm8k"].count("One and one?") == 5 and prompts["gsm8k"].endswith(
        "Question: Two and two?\nAnswer:"
    )
    assert prompts["ifeval"] == "Write no comma."
    for name, metric in (("race", "acc"), ("ifeval", "prompt_level_strict_acc")):
        assert 0 <= found["results"][name][f"{metric},none"] <= 1


MBPP = {
    "task_id": 1, "text": "Write f.", "code": "def f(): pass", "test_list": ["assert not f()"] * 3,
    "test_setup_code": "", "challenge_test_list": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no folder of a task"),
        ({"arc_eazy/test": {}}, "arc_eazy is no task .*arc_easy"),
        ({"mmlu/test": {}}, "mmlu is a group"),
        ({"piqa/test": FILES["piqa/validation"]}, "no file of split 'validation'"),
        ({"gsm8k/test": FILES["gsm8k/test"]}, "shows 5 examples from split 'train'"),
        ({"piqa/validation": {"goal": "g", "sol1": "a", "label": 0}}, "sol2"),
        ({"arc_easy/test": {"query": "q"}}, "have no answerKey, choices, question; arc_easy"),
        ({"race/test": {"article": "a"}}, "cannot be read as race .*problems"),
        # It scores programs by a metric from the Hub.
        (
            dict.fromkeys(["mbpp/test", "mbpp/prompt", "mbpp/train"], MBPP),
            "needs more than records",
        ),
    ],
)
def test_wrong_files_are_a_sentence(stock, tmp_path, files, said):
    with pytest.raises(WingsError, match=said):
        write_tasks(lay(tmp_path / "data", files), stock)


def test_local_tasks_run_in_the_harness(guarded):
    manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False)
    found = simple_evaluate(
        WingsLM(str(guarded), device="cpu", batch_size=8),
        tasks=["wings_local"],
        task_manager=manager,
        limit=4,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": 4},
    )
    assert {f"wings_{name}" for name in LOCAL} <= set(found["results"])
    for name in LOCAL:
        assert found["n-samples"][f"wings_{name}"] == {
            "original": len(LOCAL[name]()),
            "effective": 4,
        }
    assert found["results"]["wings_instructions"]["checks,none"] <= 1


def test_documents_are_scored_as_items_are():
    doc = document(next(item for item in LOCAL["instructions"]() if item.kind == "lines"))
    assert checked(doc, [doc["answer"]]) == {"acc": 1, "checks": 1}
    # Too few lines, and few enough words.
    assert checked(doc, ["cat"]) == {"acc": 0, "checks": 0.5}
    doc = document(LOCAL["capitals"]()[0])
    assert doc["choices"][doc["gold"]] == doc["answer"]


def test_lm_eval_itself_knows_wings_by_a_task_file(guarded):
    command = [Path(sys.executable).parent / "lm_eval", "--model", "wings", "--device", "cpu"]
    command += ["--model_args", f"pretrained={guarded}", "--limit", "3", "--batch_size", "3"]
    done = Program(*command, "--tasks", TASK_FILES / "wings_capitals.yaml")
    printed, errors = done.communicate()
    assert done.returncode == 0, errors[-2000:]
    assert "wings_capitals" in printed and "acc_norm" in printed


def test_the_distribution_names_it_for_harnesses_with_entry_points(tmp_path):
    script = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    (told,) = tmp_path.glob("*.egg-info")
    points = importlib.metadata.PathDistribution(told).entry_points.select(group="lm_eval.models")
    assert [point.load() for point in points] == [WingsLM]


def test_every_task_file_says_what_it_measures():
    for path in TASK_FILES.glob("*.yaml"):
        text = path.read_text()
        assert text.startswith("# ")
        loaded = yaml.load(text.replace("!function ", ""), yaml.SafeLoader)
        assert path.stem in (loaded.get("task"), loaded.get("group"))


def test_a_name_in_no_task_file_is_refused_at_once(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine_of_stars\n")
    validate_task_names(["mine_of_stars", "wings_local", "arc_easy"], [tmp_path])
    with pytest.raises(WingsError, match=r"mine_of_start .*did you mean 'mine_of_stars'"):
        validate_task_names(["wings_local", "mine_of_start"], [tmp_path])
    with pytest.raises(WingsError, match=r"--tasks gsm8kk .*did you mean"):
        validate_task_names(["gsm8kk"])
