"""The preflights of `wings emoji` and `wings experiment`, on small models and made-up drawings."""

import random
from concurrent.futures import Future

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from wings.encoders.open_clip_tower import VisionTower
from wings.errors import WingsError
from wings.examples import drawings
from wings.examples.drawings import GROUPS, Drawing
from wings.examples.emoji import data, emoji_run
from wings.examples.experiment import dataset, experiment_run, jobs, measure, methods
from wings.examples.experiment.methods import ALIGNS, BY_KEY, METHODS
from wings.examples.quickstart import tiny_tower
from wings.examples.quickstart.jobs import ASSETS
from wings.model.causal_lm import WingsForCausalLM
from wings.train import run as training
from wings.train.preflight import PreflightError
from wings.train.trainer import WingsTrainer

DRAWINGS = [Drawing(f"{g}-{n}", f"{g}{n}", g) for g in GROUPS for n in range(12)]
LLM = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 2,
       "num_key_value_heads": 1}  # fmt: skip
TOWER = {"image_size": 28, "patch_size": 14, "width": 16, "layers": 2, "head_width": 8}


def broken(*args, **kwargs):
    raise RuntimeError("it broke")


class Inline:
    """An executor without processes: what is broken for a test is broken in its jobs."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def submit(self, job, *arguments):
        future = Future()
        try:
            future.set_result(job(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def make_weights(folder, blocks):
    """A random LLM and a random tower where `write_weights` would put the real ones."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "llm")
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), num_hidden_layers=blocks, bos_token_id=None, **special, **LLM
        )
    ).bfloat16().save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_tower, "CONFIG", TOWER)
        made = VisionTower({"vision_cfg": TOWER, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        tiny_tower.save_tower(made, folder / "tower")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Weights of 28 blocks: the recipe of `wings emoji` names the last of them."""
    folder = tmp_path_factory.mktemp("deep") / "weights"
    make_weights(folder, 28)
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Weights of two blocks."""
    folder = tmp_path_factory.mktemp("flat") / "weights"
    make_weights(folder, 2)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for the weights; drawings need no package."""

    def picture(*args, **kwargs):
        return Image.new("RGB", (28, 28), "red")

    monkeypatch.setattr(emoji_run, "catalogue", lambda: DRAWINGS)
    monkeypatch.setattr(dataset, "catalogue", lambda: DRAWINGS)
    monkeypatch.setattr(drawings, "drawing_folder", lambda: tmp_path)
    monkeypatch.setattr(data, "render", picture)
    for name in ("render", "render_several", "draw"):
        monkeypatch.setattr(dataset, name, picture)
    small = {name: {**wings, "rank": 4, "learner_layers": [0]} for name, wings in ALIGNS.items()}
    monkeypatch.setattr(methods, "ALIGNS", small)
    monkeypatch.setattr(experiment_run, "ProcessPoolExecutor", Inline)
    # A random LLM answers nothing, and the page counts in what it answers.
    monkeypatch.setattr(measure, "score_all", lambda items, predictions: [1.0] * len(items))
    return tmp_path


@pytest.fixture
def of_emoji(folder, deep):
    (folder / "weights").symlink_to(deep)
    return folder


@pytest.fixture
def of_experiment(folder, flat, monkeypatch):
    (folder / "weights").symlink_to(flat)
    # A random LLM ends no sentence.
    monkeypatch.setattr(
        experiment_run, "llm_answers", lambda llm, questions, *more: ["Yes."] * len(questions)
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
    assert [path.name for path in of_emoji.iterdir()] == ["weights"]
    assert capsys.readouterr().out.count("\n") == 1


def test_emojis_preflight_leaves_nothing(of_emoji, trained, capsys):
    torch.manual_seed(5), random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    emoji_run.preflight(of_emoji)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert len(trained) == 2
    assert [path.name for path in of_emoji.iterdir()] == ["weights"]
    assert capsys.readouterr().out.startswith("Checking every later step on a few samples")


TWO = (BY_KEY["wings-retention"], BY_KEY["prefix"])


@pytest.mark.parametrize(
    ("step", "place", "attribute"),
    [
        ("score the language model", LlamaForCausalLM, "generate"),
        ("stage 1, tuned", training, "_finish"),
        ("stage 2 and scores, prefix", measure, "drift"),
        ("write the page", experiment_run, "write_page"),
    ],
)
def test_an_experiment_ends_at_a_late_step_that_fails(
    step, place, attribute, of_experiment, monkeypatch, trained
):
    monkeypatch.setattr(place, attribute, broken)
    with pytest.raises(PreflightError, match=f"preflight, {step}: RuntimeError: it broke"):
        experiment_run.experiment(
            of_experiment, of_experiment / "results", TWO[1:] if "prefix" in step else TWO
        )
    assert all("/preflight-" in name for name in trained)
    assert sorted(path.name for path in of_experiment.iterdir()) == ["results", "weights"]
    assert not list((of_experiment / "results").iterdir())


def test_an_experiments_preflight_leaves_nothing_and_a_training_that_gives_up_is_an_error(
    of_experiment, monkeypatch, trained
):
    torch.manual_seed(5), random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    experiment_run.preflight(of_experiment, TWO)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert len(trained) == 4
    assert [path.name for path in of_experiment.iterdir()] == ["weights"]

    def gives_up(*args):
        raise WingsError("the loss is nan.")

    monkeypatch.setattr(jobs, "instruct_recipe", gives_up)
    with pytest.raises(WingsError, match=r"preflight, stage 2 and scores, .*: the loss is nan\."):
        experiment_run.preflight(of_experiment, TWO[:1])


def test_a_method_of_every_kind_is_run():
    chosen = experiment_run.one_of_each_kind(METHODS)
    assert len(chosen) <= 6
    assert any("kl_to_base" in method.keys for method in chosen)
    for part in ("lora", "prefix"):
        assert any(part in method.keys or part in method.wings for method in chosen)
    assert {method.trains_llm for method in chosen} == {True, False}
