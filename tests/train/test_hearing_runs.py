"""Recipes that train sounds: alone, beside images, and added to a model that sees."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from audio_models import save_tiny_audio
from tiny import TEXT, VISION, records, tiny_model, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM, part_of
from wings.model.compose import language_tensors
from wings.processing.processor import WingsProcessor
from wings.train.build import load_model
from wings.train.estimate.budget import Budget
from wings.train.estimate.meta_model import ModelSpec
from wings.train.param_groups import plan_groups
from wings.train.preflight import preflight
from wings.train.recipe import DataSource, Evaluate, ModelNames, Recipe, TextTurns
from wings.train.run import train
from wings.train.run_folder import RunFolder

SECONDS = (0.2, 1.0, 1.7, 0.4)
RATES = dict.fromkeys(("audio_projector", "audio_learners"), 3e-3)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a language model and an audio encoder, and options of the encoder."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(folder / "llm")
    tiny_tokenizer().save_pretrained(folder / "llm")
    save_tiny_audio("whisper", folder / "audio")
    return {
        "text": str(folder / "llm"),
        "audio": {"model_name": str(folder / "audio"), "seconds": 1.0, "pool": 10},
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Files of records with sounds, with pictures, with both, and of text."""
    folder = tmp_path_factory.mktemp("mixed")
    draws = np.random.default_rng(0)
    made = {"sounds": [], "both": []}
    for n in range(8):
        samples = draws.normal(0, 0.1, int(16_000 * SECONDS[n % 4]))
        soundfile.write(folder / f"{n}.wav", samples, 16_000)
        turns = [
            {"from": "human", "value": "<audio>\nWhat?"},
            {"from": "gpt", "value": "abcd"[n % 4] * (1 + n % 5)},
        ]
        made["sounds"].append({"audio": f"{n}.wav", "conversations": turns})
        first = {"from": "human", "value": "<image><audio>\nWhich?"}
        both = {"image": f"0-{n}.png", "audio": f"{n}.wav", "conversations": [first, turns[1]]}
        made["both"].append(both)
    made["pictures"] = [*records(folder, 8, pictures=True)]
    made["text"] = [*records(folder, 8, pictures=False)]
    for name, lines in made.items():
        (folder / f"{name}.json").write_text(json.dumps(lines))
    return {name: DataSource(str(folder / f"{name}.json"), str(folder)) for name in made}


@pytest.fixture
def recipe(parts, sources, tmp_path):
    """A function of (stage, output, **changes): a recipe of a few steps on sounds and text."""

    def make(stage, output, **changes):
        settings = {
            "model": ModelNames(**parts) if "start" not in changes else None,
            "data": [sources["sounds"], sources["text"]], "batch_size": 4, "steps": 3,
            "trackers": [], "log_every": 1, "max_length": 96, "freeze_llm": True,
            "evaluate": Evaluate(text_after_image=0),
        }  # fmt: skip
        return Recipe(stage, str(tmp_path / output), **{**settings, **changes})

    return make


def weights_of(folder):
    model = WingsForCausalLM.from_pretrained(folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def groups_that_changed(before, after):
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {part_of(name) for name in changed}


def test_both_stages_of_a_model_that_hears(recipe, sources, capsys):
    evaluate = Evaluate(every=3, text_after_image=4, answers=1)
    first = train(recipe("align", "a", senses={"audio": {"rank": 4}}, learning_rates=RATES))
    start = WingsForCausalLM.from_pretrained(first.folder)
    sense = start.config.senses["audio"]
    assert list(start.config.senses) == ["audio"]
    assert (sense.learners, sense.router, sense.rank, sense.guard) == (("audio",), None, 4, True)
    turns, folder = TextTurns(sources["text"].path, 0.5), str(first.folder)
    second = train(recipe("instruct", "b", start=folder, evaluate=evaluate, text_turns=turns))
    said = capsys.readouterr().out
    assert "warning" not in said
    assert "audio_encoder" in said and "evaluating text_after_audio (" in said
    end = WingsForCausalLM.from_pretrained(second.folder)
    assert end.config.senses["audio"].modules == ("audio", "audio_text")
    assert end.config.senses["audio"].router == "attended"
    assert groups_that_changed(weights_of(first.folder), end.state_dict()) == {
        "audio_projector", "audio_learners",
    }  # fmt: skip
    assert {"eval/text_after_audio/loss", "eval/text_after_audio/kl"} <= {*second.evaluations[-1]}
    shares = [entry["audio_tokens"] for entry in second.history]
    assert all(0 < share < 1 for share in shares) and "image_tokens" not in second.history[0]
    assert {"gate/audio/0", "gate/audio_text/1", "rate/audio_router"} <= {*second.history[-1]}
    # Text is the language model's to the last bit.
    llm = LlamaForCausalLM.from_pretrained(recipe("align", "c").model.text)
    ids = torch.randint(5, 100, (2, 9))
    with torch.no_grad():
        assert torch.equal(end(input_ids=ids).logits, llm(input_ids=ids).logits)


def test_a_sense_is_added_to_a_model_that_sees(recipe, parts, sources, tmp_path, capsys):
    model, processor = tiny_model(router="attended", text_guard=True)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.2)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "sees")
    before = weights_of(tmp_path / "sees")
    added = recipe(
        "align", "both", start=str(tmp_path / "sees"), model=ModelNames(audio=parts["audio"]),
        senses={"audio": {"rank": 4}}, learning_rates=RATES,
        data=[sources["sounds"], sources["pictures"]],
    )  # fmt: skip
    result = train(added)
    after = weights_of(result.folder)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    end = WingsForCausalLM.from_pretrained(result.folder)
    assert list(end.config.senses) == ["image", "audio"]
    spec = ModelSpec.of(replace(added, output=str(tmp_path / "other"))).config
    assert spec.senses["audio"].seq_length in (None, end.config.senses["audio"].seq_length)
    assert spec.senses["audio"].token_id == end.config.senses["audio"].token_id
    # Stage 2 of both, of which one may be left as it is.
    joint = recipe(
        "instruct", "joint", start=str(result.folder), trained_senses=["image"],
        data=[sources["both"], sources["pictures"]], batching="pack",
    )  # fmt: skip
    changed = groups_that_changed(after, weights_of(train(joint).folder))
    assert "warning" not in capsys.readouterr().out
    deaf = replace(joint, output=str(tmp_path / "deaf"), data=[sources["text"]], steps=1,
                   trained_senses=["audio"])  # fmt: skip
    train(deaf)
    assert (
        "no searched record of data has an item of audio, so the sense 'audio' learns nothing"
        in (capsys.readouterr().out)
    )
    assert changed == {"projector", "image_learners", "text_learners", "router"}


def test_the_preflight_and_the_plan_know_sounds(recipe, parts, tmp_path):
    model, processor = tiny_model(text_guard=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "sees")
    both = recipe(
        "align", "p", start=str(tmp_path / "sees"), model=ModelNames(audio=parts["audio"]),
        senses={"audio": {"rank": 4}},
    )  # fmt: skip
    preflight(both)
    alone = recipe("align", "q", senses={"audio": {"rank": 4}})
    preflight(alone)
    spec = ModelSpec.of(alone)
    budget = Budget(alone, spec, 1, 80)
    real = load_model(alone)
    assert {g.name: g.count for g in budget.groups} == {
        g.name: g.count for g in plan_groups(real, alone).groups
    }
    assert budget.step(2, False).peak(False) > 0 and budget.flops_per_token(False) > 0
    assert budget.sources() > 0


def test_sight_is_added_to_a_model_that_hears_with_every_option(recipe, parts, tmp_path):
    """Options of `wings` that are not about images reach the model too."""
    first = load_model(recipe("align", "a", senses={"audio": {"rank": 4}}))
    processor = WingsProcessor.from_pretrained_parts(**parts)
    for part in (first, processor):
        part.save_pretrained(tmp_path / "hears")
    wings = {"rank": 3, "text_guard": True, "senses_rule": "newest", "learners": ["image"]}
    settings = recipe(
        "align", "b", start=str(tmp_path / "hears"), model=ModelNames(vision=VISION), wings=wings
    )
    for config in (load_model(settings).config, ModelSpec.of(settings).config):
        sense = config.senses["image"]
        assert (config.senses_rule, sense.rank, sense.guard) == ("newest", 3, True)
        assert (sense.learners, sense.router) == (("image",), None)


def test_what_is_refused(recipe, parts, tmp_path):
    model, processor = tiny_model(text_guard=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "sees")
    sees, audio = str(tmp_path / "sees"), ModelNames(audio=parts["audio"])
    cases = [
        ({"wings": {"rank": 4}}, "wings.rank: is about images"),
        (
            {"senses": {"audio": {"rang": 4}}},
            "senses.audio.rang: no such option (did you mean 'rank'?)",
        ),
        ({"senses": {"audio": {"rank": 0}}}, "senses.audio.rank is 0"),
        ({"senses": {"smell": {}}}, "senses: the model has no sense 'smell', only audio"),
        ({"senses": {"image": {}}}, "senses.image: options of images are in wings"),
        ({"senses": {"audio": {"router": "attended"}}}, "senses.audio.router: stage align"),
        ({"senses": {"audio": {"learners": ["text"]}}}, "senses.audio.learners: stage align"),
        ({"trained_senses": ["image"]}, "trained_senses: the model has no sense 'image'"),
        ({"trained_senses": []}, "trained_senses: is empty"),
        ({"learning_rates": {"audio_encoder": 1}}, "the encoder of audio is frozen"),
        ({"learning_rates": {"audio_lerners": 1}}, "did you mean 'audio_learners'"),
        ({"learning_rates": {"audio_router": 1}}, "stage align does not train this group"),
        ({"model": ModelNames(text=parts["text"])}, "model: names no encoder"),
        ({"start": sees, "model": ModelNames(**parts)}, "model.text: start has a language model"),
        ({"start": sees, "senses": {"audio": {}}}, "no sense 'audio'; it has image. Name its"),
        ({"start": sees, "trained_senses": ["audio"]}, "has no sense 'audio'"),
        ({"start": sees, "model": audio, "wings": {"rank": 4}}, "wings.rank: is about images"),
        ({"start": sees, "model": ModelNames(vision="ViT-B-32")}, "has the sense 'image' already"),
    ]
    for changes, words in cases:
        with pytest.raises(WingsError) as error:
            load_model(recipe("align", "x", **changes))
        assert words in str(error.value), (changes, str(error.value))


def test_a_start_keeps_what_its_sense_was_trained_with(recipe, tmp_path):
    first = load_model(recipe("align", "a", senses={"audio": {"rank": 4}}))
    processor = WingsProcessor.from_pretrained_parts(
        text=tiny_tokenizer(), audio=first.config.senses["audio"].encoder
    )
    for part in (first, processor):
        part.save_pretrained(tmp_path / "hears")
    for changes, words in (
        ({"rank": 8}, "senses.audio.rank: .* with 4, and the recipe has 8"),
        ({"learners": []}, "senses.audio.learners: .* trained audio learners"),
        ({"guard": False}, "senses.audio.guard: .* has true, which stays"),
    ):
        with pytest.raises(WingsError, match=words):
            load_model(
                recipe("instruct", "b", start=str(tmp_path / "hears"), senses={"audio": changes})
            )
    kept = load_model(recipe("instruct", "b", start=str(tmp_path / "hears")))
    again = {name: one for name, one in language_tensors(first).items()}
    assert all(torch.equal(one, again[name]) for name, one in language_tensors(kept).items())


@pytest.mark.parametrize("kind", ["ast", "mixtral"])
def test_a_run_goes_on_where_files_name_tensors_otherwise(recipe, parts, tmp_path, kind, capsys):
    """transformers writes tensors of some families under the names of older releases."""
    text, audio = parts["text"], parts["audio"]
    if kind == "ast":
        save_tiny_audio("ast", tmp_path / "ast")
        audio = {**audio, "model_name": str(tmp_path / "ast")}
    else:
        text = str(tmp_path / "llm")
        config = MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2)
        MixtralForCausalLM(config).save_pretrained(text)
        tiny_tokenizer().save_pretrained(text)
    settings = {"learning_rates": RATES, "max_length": 400}
    first = recipe(
        "align", "a", model=ModelNames(text=text, audio=audio), steps=1,
        senses={"audio": {"rank": 4}}, **settings,
    )  # fmt: skip
    start = str(train(first).folder)
    one = recipe("instruct", "b", start=start, save_every=1, **settings)
    whole = weights_of(train(one).folder)
    folder = RunFolder(one.output)
    assert weights_of(folder.checkpoint(2)).keys() == whole.keys()
    shutil.rmtree(folder.checkpoint(3))
    (folder.path / "result.json").unlink()
    train(one)
    assert "resuming from" in capsys.readouterr().out
    for name, tensor in weights_of(one.output).items():
        assert torch.equal(tensor, whole[name]), name
