"""GGUF files as language models of models, processors, recipes and evaluations."""

import pytest
import torch
from tiny import VISION, records

pytest.importorskip("gguf", reason="gguf is not installed")

import json

from gguf import GGMLQuantizationType
from gguf_file import tiny_llama, write_gguf

from wings import WingsError, WingsForCausalLM, WingsProcessor
from wings.cli import main
from wings.eval.models import load_eval_model
from wings.train.recipe import Recipe
from wings.train.run import train

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    """A folder with the model as it is and with eight bits a weight."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "whole.gguf", llama)
    write_gguf(folder / "eight.gguf", llama, GGMLQuantizationType.Q8_0)
    return folder


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_the_weights_of_a_file_are_those_that_were_written(llama, folder):
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(folder / "whole.gguf"))
    assert torch.equal(logits(model), logits(llama))
    processor = WingsProcessor.from_vision_text_pretrained(VISION, folder / "whole.gguf")
    assert processor.image_token_id == model.config.image_token_id
    assert processor.chat_template and processor.tokenizer.tokenize("a ab") == ["a", "Ġ", "ab"]


def test_a_recipe_begins_from_a_file_beside_it(llama, folder, tmp_path):
    """Its result is an ordinary checkpoint: the weights are ordinary tensors."""
    lines = list(records(folder, 4, pictures=True))
    (folder / "data.json").write_text(json.dumps(lines))
    (folder / "r.yaml").write_text(
        json.dumps(
            {
                "stage": "align", "output": str(tmp_path / "run"),
                "model": {"vision": VISION, "text": "eight.gguf"},
                "data": [{"path": "data.json", "images": "."}],
                "steps": 1, "batch_size": 2, "max_length": 64, "trackers": [],
                "evaluate": {"text_after_image": 0},
            }
        )
    )  # fmt: skip
    result = train(Recipe.from_yaml(folder / "r.yaml"))
    model = WingsForCausalLM.from_pretrained(result.folder)
    assert not hasattr(model.config.text_config, "quantization_config")
    with model.without_wings():
        assert torch.allclose(logits(model), logits(llama), atol=0.02)
    assert WingsProcessor.from_pretrained(result.folder).chat_template


def test_a_plan_and_an_evaluation_read_a_file(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "data.json").write_text("[]")
    values = {"stage": "align", "output": "out", "data": [{"path": "data.json"}]}
    values["model"] = {"vision": VISION, "text": "./eight.gguf"}
    (folder / "p.yaml").write_text(json.dumps({**values, "max_length": 32}))
    assert main(["plan", "p.yaml"]) == 0
    assert "language_model" in capsys.readouterr().out
    read = load_eval_model(str(folder / "eight.gguf"), torch.device("cpu"))
    assert read.model.config.model_type == "llama"


def test_a_file_that_cannot_be_read_is_a_sentence(folder):
    with pytest.raises(WingsError, match=r"^There is no file '.*none\.gguf' to read a language"):
        WingsForCausalLM.from_vision_text_pretrained(VISION, str(folder / "none.gguf"))
    broken = folder / "broken.gguf"
    broken.write_bytes((folder / "eight.gguf").read_bytes()[:300])
    with pytest.raises(WingsError, match=r"^No language model can be read from .*\.$"):
        WingsForCausalLM.from_vision_text_pretrained(VISION, str(broken))
