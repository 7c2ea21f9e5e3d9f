"""The study with small random weights: rows of every form are trained, made and scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_weights import SPEECH, Inline, make_ears, make_weights
from transformers import AutoModelForCausalLM

from wings.examples.drawings import Drawing
from wings.examples.experiment import gallery
from wings.examples.senses import seen, senses_jobs, senses_measure, senses_recipes, senses_run
from wings.examples.senses.both_questions import BOTH
from wings.examples.senses.rows import AUDIO, IMAGE, ROWS
from wings.examples.senses.senses_measure import AFTER, TEXT
from wings.examples.senses.senses_results import read_results
from wings.examples.senses.senses_size import TRIAL
from wings.examples.speech.tones import Tones

KEYS = ("composed-more", "merged-average", "image-audio")
NAMES = [Drawing(f"{n}", name, "animal") for n, name in enumerate(("cat", "dog", "sun", "axe"))]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished run of some rows: its folder, and that of its results."""
    folder = tmp_path_factory.mktemp("senses")
    results = folder / "results"
    results.mkdir()
    make_weights(folder / "weights")
    make_ears(folder / "weights" / "whisper")
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((gallery, ("render",)), (seen, ("render_several", "draw"))):
            for name in names:
                patch.setattr(module, name, lambda *a, **k: Image.new("RGB", (28, 28), "red"))
        for module in (senses_recipes, senses_jobs):
            patch.setattr(module, "SPEECH", SPEECH)
            patch.setattr(module, "TOWER", {})
        few = {**senses_recipes.LEARNERS, "rank": 4, "learner_layers": [0]}
        patch.setattr(senses_recipes, "LEARNERS", few)
        patch.setattr(senses_recipes, "LLM_RATES", {"slow": 1e-2})
        patch.setattr(senses_run, "drawings", lambda: NAMES)
        patch.setattr(senses_run, "find_speaker", Tones)
        patch.setattr(senses_run, "llm_answers", lambda llm, asked, **more: ["Yes."] * len(asked))
        # A random LLM answers nothing, and the page counts in what it answers.
        known = senses_measure.by_kind
        patch.setattr(
            senses_measure, "by_kind",
            lambda items, answers: {k: [1] * len(v) for k, v in known(items, answers).items()},
        )  # fmt: skip
        quiet = Console(quiet=True)
        size = replace(TRIAL, texts=replace(TRIAL.texts, texts={"sums": (0, 1)}))
        with np.errstate(divide="ignore", invalid="ignore"):
            senses_run.run_all(folder, results, KEYS, (0,), size, True, Inline(), quiet)
            before = (results / "runs.jsonl").read_bytes()
            # Nothing is left to do.
            senses_run.run_all(folder, results, KEYS, (0,), size, True, Inline(), quiet)
            assert (results / "runs.jsonl").read_bytes() == before
    return folder, results


def test_every_row_has_its_scores_and_a_place_on_the_page(study):
    _, results = study
    found = {one.row: one.record for one in read_results(results)}
    assert [*found] and {*found} == {*KEYS}
    page = (results / "README.md").read_text()
    for key, record in found.items():
        assert {BOTH, TEXT, *AFTER.values()} <= record["scores"].keys(), record
        assert {"alone", *AFTER.values()} <= record["kl"].keys()
        assert f"| {ROWS[key].title} |" in page
    groups = {key: {*record["trained"]} for key, record in found.items()}
    both = {"projector", "audio_projector", "image_learners", "audio_learners"}
    for key in ("composed-more", "image-audio"):
        assert both <= groups[key] and "language_model" not in groups[key]
    assert groups["merged-average"] == {"projector", "audio_projector", "language_model"}


def test_text_is_kept_where_the_llm_is_frozen_alone(study):
    _, results = study
    for one in read_results(results):
        alone = one.record["kl"]["alone"]
        if one.row == "merged-average":
            assert any(alone)
        else:
            assert not any(alone), one.row


def test_a_merge_is_the_mean_of_the_two_language_models(study):
    folder, _ = study
    model, _ = senses_jobs.load(folder, 0, ROWS["merged-average"])
    merged = model.extract_language_model().state_dict()
    children = [
        senses_jobs.read_model(senses_jobs.model_folder(folder, 0, name))[0]
        .extract_language_model()
        .state_dict()
        for name in ROWS["merged-average"].model
    ]
    llm = AutoModelForCausalLM.from_pretrained(folder / "weights" / "llm").state_dict()
    moved = 0
    for name, tensor in merged.items():
        mean = (children[0][name].float() + children[1][name].float()) / 2
        assert torch.allclose(tensor.float(), mean, atol=2e-2, rtol=1e-2)
        moved += not torch.equal(tensor, llm[name].to(tensor.dtype))
    assert moved and set(model.config.senses) == {IMAGE, AUDIO}


def test_rules_change_nothing_of_the_weights(study):
    folder, _ = study
    one, other = (
        senses_jobs.load(folder, 0, ROWS[f"composed-{rule}"])[0] for rule in ("sum", "newest")
    )
    assert one.config.senses_rule == "sum" and other.config.senses_rule == "newest"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
