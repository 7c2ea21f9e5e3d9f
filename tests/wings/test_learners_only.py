"""Checkpoints of learners alone: the same logits, only with the parts they were trained with."""

import json
import shutil

import pytest
import torch
from audio_models import save_tiny_audio
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import AutoModel, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from wings import WingsError, WingsForCausalLM, WingsProcessor
from wings.cli import main
from wings.cli.chat import load
from wings.encoders.open_clip_tower import VisionTower
from wings.eval.models import load_eval_model

REFUSED = "belong to the {} '.*' .*fingerprint .* has the fingerprint .*as {}="


def randomise(module, wanted=""):
    for name, parameter in module.named_parameters():
        if wanted in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)


def save_tower(folder, seed):
    torch.manual_seed(seed)
    tower = VisionTower({**VISION, "select_layer": -1})
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": VISION}))
    weights = {name: tensor.contiguous() for name, tensor in tower.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of `llm`, `tower`, the checkpoint `whole`, its `learners`, and `others`."""
    base = tmp_path_factory.mktemp("learners")
    config = LlamaConfig(**{**TEXT, "tie_word_embeddings": True})
    for name, seed in (("llm", 0), ("other-llm", 1)):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base / name)
        tiny_tokenizer().save_pretrained(base / name)
    save_tower(base / "tower", 0)
    save_tower(base / "other-tower", 1)
    vision = {"model_name": f"local-dir:{base / 'tower'}", "select_layer": -1}
    model = WingsForCausalLM.from_vision_text_pretrained(vision, str(base / "llm"), rank=4)
    for part in (".wings.", "projector"):
        randomise(model, part)
    model.config.llm_trained = False
    model.save_pretrained(base / "whole", max_shard_size="60KB")
    WingsProcessor.from_vision_text_pretrained(vision, base / "llm").save_pretrained(base / "whole")
    command = ["export", "--learners-only", str(base / "whole"), str(base / "learners")]
    assert main(command) == 0
    return base


@pytest.fixture
def learners(folder, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(folder / "learners", tmp_path / "learners")
    return tmp_path / "learners"


@torch.no_grad()
def logits(model):
    image = model.config.image_token_id
    ids = torch.tensor([[5, *[image] * model.config.image_seq_length, 6, 7]])
    torch.manual_seed(0)
    return model(input_ids=ids, pixel_values=torch.randn(1, 3, 28, 28)).logits


def test_learners_alone_are_small_and_give_the_same_logits(folder):
    with safe_open(folder / "learners" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names and all(".wings." in name or "projector" in name for name in names)
    whole = WingsForCausalLM.from_pretrained(folder / "whole")
    again = WingsForCausalLM.from_pretrained(folder / "learners")
    assert again.dtype == torch.bfloat16
    assert again.state_dict().keys() == whole.state_dict().keys()
    assert torch.equal(logits(again), logits(whole))
    # The language model may be given, also to Auto classes and in another dtype.
    llm = LlamaForCausalLM.from_pretrained(folder / "llm", dtype=torch.bfloat16)
    given = AutoModelForImageTextToText.from_pretrained(
        folder / "learners", text=llm, dtype=torch.float32
    )
    assert torch.equal(logits(given), logits(whole.float()))
    assert set(AutoModel.from_pretrained(folder / "learners").state_dict()) < {
        name.removeprefix("model.") for name in whole.state_dict()
    }


def test_they_are_saved_again_in_both_forms(folder, tmp_path):
    model = WingsForCausalLM.from_pretrained(folder / "learners")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "learners", learners_only=True)
    fields = [
        json.loads((at / "learners" / "config.json").read_text()) for at in (folder, tmp_path)
    ]
    assert fields[0] == fields[1]
    for name in ("whole", "learners"):
        again = WingsForCausalLM.from_pretrained(tmp_path / name)
        assert torch.equal(logits(again), logits(model))
    assert "fingerprint" not in (tmp_path / "whole" / "config.json").read_text()


def test_commands_take_them(folder):
    answers = [load(str(folder / name)).say("Hi?", 3) for name in ("learners", "whole")]
    assert answers[0] == answers[1]
    found = load_eval_model(str(folder / "learners"), torch.device("cpu")).model
    assert torch.equal(logits(found), logits(WingsForCausalLM.from_pretrained(folder / "whole")))
    grown = WingsForCausalLM.from_pretrained(folder / "learners", router="attended")
    assert grown.config.router == "attended"


def test_other_parts_are_refused(folder):
    given = {
        "text": [str(folder / "other-llm"), LlamaForCausalLM.from_pretrained(folder / "other-llm")],
        "vision": [f"local-dir:{folder / 'other-tower'}"],
    }
    for part, noun in (("text", "language model"), ("vision", "vision tower")):
        for other in given[part]:
            with pytest.raises(WingsError, match=REFUSED.format(noun, part)):
                WingsForCausalLM.from_pretrained(folder / "learners", **{part: other})
    for part in ("text", "vision"):
        with pytest.raises(WingsError, match=f"leave {part} out"):
            WingsForCausalLM.from_pretrained(folder / "whole", **{part: given[part][0]})


def test_parts_that_are_not_there_are_named(folder, learners, monkeypatch, capsys):
    path = learners / "config.json"
    fields = json.loads(path.read_text())

    def loading(**changes):
        base = {**fields["wings_base"], **changes}
        path.write_text(json.dumps({**fields, "wings_base": base}))
        with pytest.raises(WingsError) as caught:
            WingsForCausalLM.from_pretrained(learners)
        return str(caught.value)

    text, vision = (fields["wings_base"][part] for part in ("text", "vision"))
    said = loading(text={**text, "name": "/models/gone"})
    assert "language model '/models/gone' (fingerprint " in said and "text=" in said
    assert "names no language model: give it as text=" in loading(text={**text, "name": None})
    said = loading(vision={**vision, "name": "local-dir:/models/gone"})
    assert "vision tower 'local-dir:/models/gone'" in said and "vision=" in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "'nobody/llm'" in loading(text={**text, "name": "nobody/llm"})
    assert "wings_base in config.json" in loading(text="llm")
    path.write_text(json.dumps(fields))
    tensors = learners / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(WingsError, match=r"model\.safetensors has .* bytes"):
        WingsForCausalLM.from_pretrained(learners)
    tensors.unlink()
    with pytest.raises(WingsError, match="no file of tensors"):
        WingsForCausalLM.from_pretrained(learners)
    assert main(["chat", str(learners)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_trained_language_model_is_refused(folder, tmp_path, capsys):
    model = WingsForCausalLM.from_pretrained(folder / "whole")
    model.config.llm_trained = None
    model.save_pretrained(tmp_path / "unknown", learners_only=True)
    randomise(model.lm_head)
    with pytest.raises(WingsError, match=r"does not equal '.*llm'.*llm_trained = False"):
        model.save_pretrained(tmp_path / "changed", learners_only=True)
    model.config.llm_trained = True
    with pytest.raises(WingsError, match="language model was trained"):
        model.save_pretrained(tmp_path / "changed", learners_only=True)
    assert not (tmp_path / "changed").exists()
    model.save_pretrained(tmp_path / "trained")
    command = ["export", "--learners-only", str(tmp_path / "trained")]
    assert main(command) == 2 and main([*command, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "OUTPUT" in said and "language model was trained" in said
    assert not (tmp_path / "out").exists()


def test_a_named_audio_encoder_is_left_out_too(folder, tmp_path):
    """Saved, loaded, given, refused, and forgotten with the sense; beside a tower, or alone."""
    for name in ("audio", "other-audio"):
        save_tiny_audio("whisper", tmp_path / name)
    other = AutoModel.from_pretrained(tmp_path / "other-audio")
    randomise(other)
    other.save_pretrained(tmp_path / "other-audio")
    model = WingsForCausalLM.from_pretrained(folder / "whole")
    source = {"model_name": str(tmp_path / "audio"), "seconds": 1.0, "pool": 10}
    model.add("audio", source, rank=4)
    randomise(model, "audio_projector")
    assert model.config.wings_base["audio"] == {"name": str(tmp_path / "audio")}
    model.save_pretrained(tmp_path / "both", learners_only=True)
    with safe_open(tmp_path / "both" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "encoder" in name or "tower" in name]  # noqa: SIM118
    again = WingsForCausalLM.from_pretrained(tmp_path / "both")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    WingsForCausalLM.from_pretrained(tmp_path / "both", audio=str(tmp_path / "audio"))
    with pytest.raises(WingsError, match=REFUSED.format("audio encoder", "audio")):
        WingsForCausalLM.from_pretrained(tmp_path / "both", audio=str(tmp_path / "other-audio"))
    with pytest.raises(WingsError, match=r"has its own parts, audio too: leave audio out\."):
        WingsForCausalLM.from_pretrained(folder / "whole", audio=str(tmp_path / "audio"))
    again.drop("image")
    assert {*again.config.wings_base} == {"text", "audio"}
    again.save_pretrained(tmp_path / "hears", learners_only=True)
    hears = WingsForCausalLM.from_pretrained(tmp_path / "hears")
    assert list(hears.config.senses) == ["audio"]
    model.drop("audio")
    assert {*model.config.wings_base} == {"text", "vision"}
    assert torch.equal(logits(model), logits(WingsForCausalLM.from_pretrained(folder / "whole")))
