"""Tables fit a terminal of 80 columns: no longer line, and no cell that is cut."""

import io
import json
from types import SimpleNamespace

import pytest

from wings.cli import plan
from wings.cli.compare import compare
from wings.cli.eval_output import section_table
from wings.cli.gate import show
from wings.cli.terminal import make_console, make_table
from wings.eval.compare.bootstrap import Estimate
from wings.eval.compare.paired import paired_table
from wings.eval.gates.gate_curve import GateCurve, GateResult
from wings.eval.gates.gate_setting import GateSetting
from wings.eval.report.report import Section
from wings.eval.scoring.accuracy import Accuracy

# The longest that ship, and longer than any.
GROUPS = ("vision_tower", "projector", "image_learners", "text_learners", "language_model")
TASK = "mmlu_flan_cot_zeroshot_high_school_government_and_politics, exact_match (flexible-extract)"
FOLDER = "wings-eval-smollm2-135m-dinov2-instruct-frozen-every-third-block-seed-2"


def shown(*things):
    stream = io.StringIO()
    console = make_console(file=stream, width=80)
    for thing in things:
        console.print(thing)
    return validated(stream.getvalue())


def validated(text):
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text, text
    return text


def joined(text):
    """The words of a table without its lines and breaks."""
    return "".join(letter for letter in text if letter not in "│┃ \n")


def group(name):
    count, rate = (70_553_706_496 if name == GROUPS[-1] else 2_000_000_000), 1e-5
    sizes = {"weights": 4 * count, "gradients": 4 * count, "optimiser": 8 * count}
    return SimpleNamespace(name=name, count=count, rate=rate, kind="torch.bfloat16", **sizes)


def test_a_plan_of_a_large_model():
    memory = dict.fromkeys(("weights", "gradients", "optimiser", "extra", "fixed"), 9e12)
    budget = SimpleNamespace(
        groups=[group(name) for name in GROUPS],
        gpus=8,
        rows=1024,
        recipe=SimpleNamespace(parallel="fsdp", gradient_checkpointing=True),
        device_memory=lambda mode: SimpleNamespace(**memory),
        activations=lambda mode, rows, on: 9e12,
        logits=lambda: 9e12,
        sources=lambda: 9e12,
    )
    text = shown(plan.groups(budget))
    assert all(f"{name} " in text for name in GROUPS) and "70,553,706,496" in text
    assert "fsdp (the recipe's)" in shown(plan.memory(budget))


def test_an_evaluation_with_long_names():
    scores = SimpleNamespace(
        accuracies=(Accuracy(60_000, 80_000), Accuracy(20_000, 80_000)),
        changes=(60_000, 20_000),
        difference=Estimate(-50.0, -50.3, -49.7),
    )
    rows = paired_table({"all": scores, TASK: scores})
    text = shown(section_table(Section("Tasks", "", rows, None)))
    assert text.count("-50.0") == 2 and text.count("60000/20000") == 2
    # The lines of a long name are apart from the numbers of its row.
    assert all(word in joined(text) for word in ("exact_match", "extract)"))


def test_a_comparison_of_reports_with_long_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    side = {"right": 10_000, "total": 10_000, "interval": (99.9, 100.0)}
    figures = {"kinds": {"all": {"before": side, "after": side}}}
    parts = dict.fromkeys(("text", "pictures", "conversations"), figures)
    document = {"inputs": {"against": "a", "files": {}}, "measurements": parts}
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "report.json").write_text(json.dumps(document))
    compare([tmp_path / FOLDER], tmp_path / "plot.png")
    text = validated(capsys.readouterr().out)
    assert text.count("100.0") == 6


def test_a_curve_of_gates():
    score = {"all": Accuracy(9_999, 10_000)}
    settings = [("none", None), ("off", None), ("hill", 0.000123456)]
    results = [GateResult(GateSetting(*one), score, score) for one in settings]
    names = [result.setting.name for result in results]
    curve = GateCurve(results, 2.0)
    stream = io.StringIO()
    show(make_console(file=stream, width=80), curve)
    assert all(name in validated(stream.getvalue()) for name in names)


@pytest.mark.parametrize("columns", [2, 5])
def test_a_long_word_goes_on_in_the_next_line(columns):
    table = make_table(*[f"column {n}" for n in range(columns)])
    table.add_row("x" * 200, *["y"] * (columns - 1))
    assert joined(shown(table)).count("x") == 200
