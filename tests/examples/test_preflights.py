"""The preflights of `wings emoji` and `wings experiment`, on small models and made-up drawings."""

import random
from dataclasses import replace

import pytest
import torch
from country_package import write_countries
from PIL import Image
from small_weights import Inline, make_weights
from transformers import LlamaForCausalLM

from wings.errors import WingsError
from wings.examples import drawings
from wings.examples.drawings import GROUPS, Drawing
from wings.examples.emoji import data, emoji_run
from wings.examples.experiment import (
    cells,
    experiment_page,
    experiment_run,
    gallery,
    jobs,
    measure,
    recipes,
    studies,
    trial,
)
from wings.examples.experiment.cells import BY_KEY, STAGE_1
from wings.examples.experiment.packages import Packages
from wings.examples.experiment.runs import SEEDS, read_runs
from wings.model.causal_lm import WingsForCausalLM
from wings.output_folder import OutputFolder
from wings.train import run as training
from wings.train.preflight import PreflightError
from wings.train.trainer import WingsTrainer

DRAWINGS = [Drawing(f"{g}-{n}", f"{g}{n}", g) for g in GROUPS for n in range(12)]


TWO = ("learner-both-open", "learner-instruct-open")


def broken(*args, **kwargs):
    raise RuntimeError("it broke")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of them."""
    folder = tmp_path_factory.mktemp("made") / "weights"
    make_weights(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for the weights; drawings need no package."""

    def picture(*args, **kwargs):
        return Image.new("RGB", (28, 28), "red")

    monkeypatch.setattr(emoji_run, "catalogue", lambda: DRAWINGS)
    monkeypatch.setattr(studies, "catalogue", lambda: DRAWINGS)
    monkeypatch.setattr(drawings, "drawing_folder", lambda: tmp_path)
    monkeypatch.setattr(data, "render", picture)
    for name in ("render", "render_several", "draw"):
        monkeypatch.setattr(gallery, name, picture)
    few = {"rank": 4, "learner_layers": [0]}
    stages = {
        name: {**keys, "wings": {**keys["wings"], **(few if keys["wings"]["learners"] else {})}}
        for name, keys in STAGE_1.items()
    }
    monkeypatch.setattr(recipes, "STAGE_1", stages)
    wings = {"learners": ["image"], "router": None, **cells.LEARNER, **few}
    for key in TWO:
        small = replace(BY_KEY[key], stage_2={"wings": wings, "freeze_llm": True})
        monkeypatch.setitem(BY_KEY, key, small)
    monkeypatch.setattr(trial, "ProcessPoolExecutor", Inline)
    # A random LLM answers nothing, and the page counts in what it answers.
    monkeypatch.setattr(measure, "score_all", lambda items, answers: [1.0] * len(items))
    return tmp_path


def claim(folder, maker):
    """Marks a folder, in which the weights are the command's."""
    owned = OutputFolder(folder, maker)
    owned.claim()
    owned.record("weights")


@pytest.fixture
def of_emoji(folder, weights, monkeypatch):
    claim(folder, "wings emoji")
    (folder / "weights").symlink_to(weights)
    # The recipe names blocks that only the real LLM has.
    few = (*emoji_run.PREFLIGHT_CHANGES, "wings.learner_layers=[0, 1]")
    monkeypatch.setattr(emoji_run, "PREFLIGHT_CHANGES", few)
    return folder


@pytest.fixture
def of_experiment(folder, weights, monkeypatch):
    claim(folder, "wings experiment")
    (folder / "weights").symlink_to(weights)
    # A random LLM ends no sentence.
    monkeypatch.setattr(
        trial, "llm_answers", lambda llm, questions, **more: ["Yes."] * len(questions)
    )
    return folder


@pytest.fixture
def trained(monkeypatch):
    """The folders in which training took a step."""
    folders = set()
    original = WingsTrainer.training_step

    def step(self, *args, **kwargs):
        folders.add(self.args.output_dir)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WingsTrainer, "training_step", step)
    return folders


@pytest.mark.parametrize(
    ("step", "place", "attribute"),
    [
        ("train both stages", training, "_finish"),
        ("score", WingsForCausalLM, "generate"),
        ("write the page", emoji_run, "emoji_page"),
    ],
)
def test_emoji_ends_at_a_late_step_that_fails(
    step, place, attribute, of_emoji, monkeypatch, trained, capsys
):
    monkeypatch.setattr(place, attribute, broken)
    with pytest.raises(PreflightError, match=f"preflight, {step}: RuntimeError: it broke"):
        emoji_run.emoji(of_emoji)
    assert trained and all("/preflight-" in name for name in trained)
    assert sorted(path.name for path in of_emoji.iterdir()) == [".wings", "weights"]
    assert capsys.readouterr().out.count("\n") == 1


def test_emojis_preflight_leaves_nothing(of_emoji, trained, capsys):
    torch.manual_seed(5), random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    emoji_run.preflight(of_emoji)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert len(trained) == 2
    assert sorted(path.name for path in of_emoji.iterdir()) == [".wings", "weights"]
    assert capsys.readouterr().out.startswith("Checking every later step on a few samples")


def experiment(folder, *keys):
    results = folder / "results"
    cells = [BY_KEY[key] for key in keys]
    return experiment_run.experiment(folder, results, cells=cells, workers=1)


@pytest.mark.parametrize(
    ("step", "place", "attribute"),
    [
        ("score the language model", LlamaForCausalLM, "generate"),
        ("stage 1, learner", training, "_finish"),
        ("stage 2 and scores, image learner, both stages, no gate", jobs, "measure_checkpoint"),
        ("write the page", experiment_page, "cell_table"),
    ],
)
def test_an_experiment_ends_at_a_late_step_that_fails(
    step, place, attribute, of_experiment, monkeypatch, trained
):
    monkeypatch.setattr(place, attribute, broken)
    with pytest.raises(PreflightError, match=f"preflight, {step}: RuntimeError: it broke"):
        experiment(of_experiment, *TWO)
    assert all("/preflight-" in name for name in trained)
    assert sorted(path.name for path in of_experiment.iterdir()) == [
        ".wings", "results", "weights"
    ]  # fmt: skip
    assert [path.name for path in (of_experiment / "results").iterdir()] == [".wings"]


def test_an_experiments_preflight_leaves_nothing_and_a_training_that_gives_up_is_an_error(
    of_experiment, monkeypatch, trained, tmp_path_factory
):
    torch.manual_seed(5), random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    chosen = [BY_KEY[key] for key in TWO]
    # The study with the most tests.
    packages = Packages(flags=write_countries(tmp_path_factory.mktemp("flags") / "package"))
    one = trial.Trial(studies.NEED_BOTH, chosen, SEEDS, studies.NEED_BOTH.size, packages)
    one.preflight(of_experiment, Inline())
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    # Both stages of a sweep and of two cells; the sweep and a cell differ in the seed.
    assert len(trained) == 6
    assert sorted(path.name for path in of_experiment.iterdir()) == [".wings", "weights"]

    def gives_up(*args):
        raise WingsError("the loss is nan.")

    monkeypatch.setattr(jobs, "instruct_recipe", gives_up)
    with pytest.raises(WingsError, match=r"preflight, stage 2 and scores, .*: the loss is nan\."):
        one.preflight(of_experiment, Inline())


SMALL = replace(trial.PREFLIGHT_SIZE, pictures={"name": (1, 2), "group": (1, 1), "style": (0, 0)})


def test_an_experiment_goes_on_where_it_was_stopped(of_experiment, monkeypatch):
    monkeypatch.setattr(trial.Trial, "preflight", lambda *args: None)
    results = of_experiment / "results"

    def run(*seeds):
        return experiment_run.experiment(
            of_experiment, results, studies.STAGES, [BY_KEY[TWO[0]]], seeds, 1, size=SMALL
        )

    whole, align = jobs.run, jobs.align

    def run_sweeps(one, *rest):
        return whole(one, *rest) if one.part == "sweep" else broken()

    monkeypatch.setattr(jobs, "run", run_sweeps)
    with pytest.raises(RuntimeError, match="it broke"):
        run(0)
    assert len(read_runs(results)) == 4
    assert len(list((of_experiment / "stage1").iterdir())) == 5
    # The finished stage 1 of seed 0 is on disk; that of seed 1 is not.
    monkeypatch.setattr(jobs, "run", whole)
    monkeypatch.setattr(jobs, "align", broken)
    done = run(0)
    assert [(one.run.part, one.run.seed) for one in done] == [("sweep", 100)] * 4 + [("run", 0)]
    assert not any((of_experiment / "runs").iterdir())
    with pytest.raises(RuntimeError, match="it broke"):
        run(0, 1)
    assert run(0) == done
    monkeypatch.setattr(jobs, "align", align)
    assert len(run(0, 1)) == 6
    assert "image learner, both stages, no gate" in (results / "README.md").read_text()
