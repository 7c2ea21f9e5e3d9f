"""`wings compose`: checkpoints that see and hear become one, from their folders."""

import io
import json

import numpy as np
import pytest
import soundfile
import torch
from audio_models import tiny_audio
from PIL import Image
from tiny import TEXT, VISION, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from wings import WingsForCausalLM, WingsProcessor
from wings.cli import main

BATCH = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
SEEN = {"type": "image", "image": Image.new("RGB", (28, 28), "red")}
HEARD = {"type": "audio", "audio": (np.linspace(-0.5, 0.5, 20_000, dtype=np.float32), 16_000)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An LLM, a checkpoint that sees and one that hears, whose learners act."""
    folder = tmp_path_factory.mktemp("compose")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(folder / "llm")
    tiny_tokenizer().save_pretrained(folder / "llm")
    parts = {"sees": {"image": VISION}, "hears": {"audio": tiny_audio("whisper", pool=4)}}
    for name, part in parts.items():
        options = {"senses": {"audio": {"rank": 4}}}
        if name == "sees":
            options = {"text_guard": True, "rank": 4}
        model = WingsForCausalLM.from_pretrained_parts(text=str(folder / "llm"), **part, **options)
        for parameter_name, parameter in model.named_parameters():
            if ".wings." in parameter_name:
                torch.nn.init.normal_(parameter, std=0.3)
        processor = WingsProcessor.from_pretrained_parts(text=str(folder / "llm"), **part)
        model.config.llm_trained = False
        model.save_pretrained(folder / name, learners_only=name == "hears")
        processor.save_pretrained(folder / name)
    return folder


def loaded(folder, **options):
    return WingsForCausalLM.from_pretrained(folder, **options), WingsProcessor.from_pretrained(
        folder
    )


def test_a_composed_folder_answers_as_each_of_its_checkpoints(home, tmp_path, capsys):
    llm, output = str(home / "llm"), tmp_path / "both"
    command = ["compose", llm, str(home / "sees"), str(home / "hears"), "--output", str(output)]
    assert main([*command, "--rule", "attended"]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: image and audio on {llm}, whose text is")
    assert json.loads((output / "config.json").read_text())["senses_rule"] == "attended"
    both, processor = loaded(output)
    assert both.config.wings_base["text"]["name"] == llm
    for name, part in (("sees", SEEN), ("hears", HEARD)):
        own, reader = loaded(home / name, **({"text": llm} if name == "hears" else {}))
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
        ours, theirs = (p.apply_chat_template(messages, **BATCH) for p in (processor, reader))
        assert torch.equal(both(**ours).logits, own(**theirs).logits)
    talk = [{"role": "user", "content": [SEEN, HEARD, {"type": "text", "text": "both?"}]}]
    batch = processor.apply_chat_template(talk, **BATCH)
    assert both.generate(**batch, max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


def test_what_does_not_fit_is_refused(home, tmp_path, capsys):
    llm, sees, hears = (str(home / name) for name in ("llm", "sees", "hears"))
    output = ["--output", str(tmp_path / "both")]
    assert main(["compose", llm, sees, *output]) == 2
    assert "give two or more" in capsys.readouterr().err
    assert main(["compose", llm, sees, sees, *output]) == 2
    assert "has the sense 'image', and one before it too" in capsys.readouterr().err
    other = LlamaForCausalLM.from_pretrained(llm)
    other.lm_head.weight.data[3, 3] += 1.0
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    assert main(["compose", str(tmp_path / "other"), sees, hears, *output]) == 2
    assert "belong to the language model" in capsys.readouterr().err
    whole, reader = loaded(hears, text=llm)
    reader.tokenizer.chat_template += " "
    for part in (whole, reader):
        part.save_pretrained(tmp_path / "whole")
    assert main(["compose", llm, sees, str(tmp_path / "whole"), *output]) == 2
    assert "another chat template" in capsys.readouterr().err
    assert main(["compose", str(tmp_path / "other"), str(tmp_path / "whole"), sees, *output]) == 2
    assert "the tensor 'lm_head.weight' differs" in capsys.readouterr().err


def test_a_checkpoint_that_hears_is_talked_to(home, tmp_path, monkeypatch, capsys):
    llm, hears = str(home / "llm"), str(home / "hears")
    whole, reader = loaded(hears, text=llm)
    for part in (whole, reader):
        part.save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "a.flac", HEARD["audio"][0][:9000], 8000)
    sound = str(tmp_path / "a.flac")
    lines = ["what?", f"/audio {sound}", "and?", "/audio nowhere.wav"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    command = ["chat", str(tmp_path / "model"), "--audio", sound, "--max-new-tokens", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("wings  ") == 2 and "nowhere.wav" in said
    for option in ("--image", "--video"):
        assert main(["chat", str(tmp_path / "model"), option, sound]) == 2
        assert "the model does not see; it has audio. Leave it out." in capsys.readouterr().err
    assert main(["chat", str(home / "sees"), "--audio", sound]) == 2
    assert "the model does not hear; it has image" in capsys.readouterr().err
    assert main(["chat", str(home / "sees"), "--audio", "nowhere.wav"]) == 2
    assert "nowhere.wav" in capsys.readouterr().err
