"""Quantised checkpoints: bitsandbytes, torchao and optimum-quanto, on a CPU."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from tiny import VISION, tiny_model
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    QuantoConfig,
)

from wings import WingsError, WingsForCausalLM, WingsProcessor
from wings.examples import quantised as quantised_ways
from wings.train.build import load_model
from wings.train.recipe import DataSource, Recipe
from wings.upstream.quantizers import with_kept_parts

# bitsandbytes' 4-bit kernel for CPUs wants widths that 64 divides.
WIDE = {"hidden_size": 128, "intermediate_size": 256}


# The module, the configuration, and the KL in nats that it may cost on random weights.
WAYS = {
    "bitsandbytes int8": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_8bit=True), 1e-4),
    "bitsandbytes nf4": ("bitsandbytes", quantised_ways.nf4, 1e-2),
    "torchao int8": ("torchao", quantised_ways.torchao_int8, 1e-4),
    "torchao int4": ("torchao", quantised_ways.torchao_int4, 1e-2),
    "quanto int8": ("optimum.quanto", lambda: QuantoConfig(weights="int8"), 1e-4),
    "quanto int4": ("optimum.quanto", lambda: QuantoConfig(weights="int4"), 1e-2),
}


def way(name):
    """The configuration of a way, or a skip where its library is not installed."""
    module, make, most = WAYS[name]
    pytest.importorskip(module, reason=f"{module} is not installed")
    return make(), most


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Folder of a checkpoint whose learners act, and with it its language model alone."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = tiny_model(WIDE, router="modality")
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    model.extract_language_model().save_pretrained(folder / "llm")
    return folder


@pytest.fixture(scope="module")
def batch(start):
    processor = WingsProcessor.from_pretrained(start)
    image = [processor.image_token_id] * processor.image_seq_length
    ids = torch.tensor([[9, 10, *image, 11, 12, 13]])
    torch.manual_seed(1)
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 28, 28)}


@pytest.fixture(scope="module")
def expected(start, batch):
    return logits(WingsForCausalLM.from_pretrained(start), batch)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def is_plain(module):
    return type(module) is torch.nn.Linear and type(module.weight.data) is torch.Tensor


def quantised(model):
    """Names of the linear layers that are not ordinary ones."""
    linear = torch.nn.Linear
    return {n for n, m in model.named_modules() if isinstance(m, linear) and not is_plain(m)}


def unpacked(packed, bits):
    """Numbers of a few bits, of which a byte holds several: the lowest bits of all bytes first."""
    return torch.cat([packed >> lowest & (1 << bits) - 1 for lowest in range(0, 8, bits)])


@pytest.fixture
def uncompiled(monkeypatch):
    """Replaces quanto's operation for CPUs, which it would compile for most of a minute."""
    if importlib.util.find_spec("optimum") is not None:
        from optimum.quanto.library.extensions import cpp

        monkeypatch.setattr(cpp.ext, "_lib", SimpleNamespace(unpack=unpacked))


@pytest.mark.parametrize("name", WAYS)
def test_the_language_model_is_quantised_and_saved_as_it_is(
    name, start, batch, expected, uncompiled, tmp_path
):
    config, most = way(name)
    model = WingsForCausalLM.from_pretrained(start, quantization_config=config)
    found = quantised(model)
    assert len(found) == 2 * 7
    assert all(n.startswith("model.language_model.") and ".wings." not in n for n in found)
    assert {p.dtype for n, p in model.named_parameters() if ".wings." in n} == {torch.float32}
    once = logits(model, batch)
    first, second = once.log_softmax(-1), expected.log_softmax(-1)
    kl = functional.kl_div(first, second, reduction="none", log_target=True).sum(-1)
    assert 0 < kl.max() < most
    answer = model.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert answer.shape[1] == batch["input_ids"].shape[1] + 3
    if "quanto" in name:
        with pytest.raises(WingsError, match="quantised with quanto cannot be saved: save the mod"):
            model.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
        return
    model.save_pretrained(tmp_path / "saved")
    again = WingsForCausalLM.from_pretrained(tmp_path / "saved")
    assert quantised(again) == found
    assert torch.equal(logits(again, batch), once) and torch.equal(logits(model, batch), once)


@pytest.mark.parametrize("name", ["bitsandbytes int8", "bitsandbytes nf4", "torchao int8"])
def test_a_quantised_language_model_is_handed_in(name, start, batch, tmp_path):
    config, _ = way(name)
    # A layer that its configuration leaves alone stays alone.
    field = "modules_to_not_convert" if "torchao" in name else "llm_int8_skip_modules"
    setattr(config, field, ["lm_head", "model.layers.0.mlp.up_proj"])
    llm = AutoModelForCausalLM.from_pretrained(start / "llm", quantization_config=config)
    image = WingsProcessor.from_pretrained(start).image_token_id
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, llm, rank=4, image_token_id=image)
    found = quantised(model)
    assert len(found) == 2 * 7 - 1
    assert "model.language_model.layers.0.mlp.up_proj" not in found
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    assert quantised(again) == found
    assert torch.equal(logits(again, batch), logits(model, batch))
    with pytest.raises(WingsError, match="is quantised, so it cannot be taken out: load the check"):
        again.extract_language_model()


def test_learners_alone_are_saved_of_the_unquantised_model(start, four_bits, tmp_path):
    llm = str(start / "llm")
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, llm, rank=4)
    model.save_pretrained(tmp_path / "learners", learners_only=True)
    config, _ = way("torchao int8")
    loaded = WingsForCausalLM.from_pretrained(tmp_path / "learners", quantization_config=config)
    assert len(quantised(loaded)) == 2 * 7
    quantised_whole = WingsForCausalLM.from_pretrained(four_bits)
    with pytest.raises(WingsError, match=r"^learners_only: the language model is quantised"):
        quantised_whole.save_pretrained(tmp_path / "no", learners_only=True)
    assert not (tmp_path / "no").exists()


def test_what_sees_images_is_never_quantised():
    kept = with_kept_parts({"load_in_4bit": True, "quant_method": "bitsandbytes"})
    assert {"lm_head", "model.vision_tower", "model.projector"} < {*kept.llm_int8_skip_modules}
    own = with_kept_parts(BitsAndBytesConfig(llm_int8_skip_modules=["lm_head"]))
    assert "model.vision_tower" not in own.llm_int8_skip_modules
    assert "model.projector" in own.llm_int8_skip_modules


def test_weights_that_cannot_be_quantised_here_are_a_sentence(start):
    pytest.importorskip("torchao", reason="torchao is not installed")
    if torch.cuda.is_available():
        pytest.skip("a GPU has the kernel")
    config = quantised_ways.torchao_gpu_int4()
    with pytest.raises(WingsError, match="cannot be quantised in this way on this machine"):
        WingsForCausalLM.from_pretrained(start, quantization_config=config)


@pytest.fixture(scope="module")
def four_bits(start, tmp_path_factory):
    """The checkpoint in nf4, saved."""
    folder = tmp_path_factory.mktemp("nf4")
    model = WingsForCausalLM.from_pretrained(start, quantization_config=way("bitsandbytes nf4")[0])
    model.save_pretrained(folder)
    WingsProcessor.from_pretrained(start).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6")
def test_adapters_over_four_bits_learn_with_peft(four_bits, batch):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = WingsForCausalLM.from_pretrained(four_bits)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    labels = batch["input_ids"].clone()
    labels[labels == model.config.image_token_id] = -100
    losses = []
    for _ in range(5):
        loss = adapted(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_a_recipe_refuses_quantised_weights_in_a_sentence(four_bits, tmp_path):
    data = [DataSource(str(tmp_path / "data.json"))]
    recipe = Recipe(stage="instruct", output=str(tmp_path), data=data, start=str(four_bits))
    with pytest.raises(WingsError, match=r"^start: its weights are quantised, which no recipe"):
        load_model(recipe)


def test_the_page_has_the_table_of_its_record():
    record = json.loads((quantised_ways.DOCS / "quantised.json").read_text())
    page = (quantised_ways.DOCS / "quantised.md").read_text()
    assert quantised_ways.table(record) in page
    assert [row[0] for row in record["rows"]] == list(quantised_ways.WAYS)


def test_a_row_of_the_table_is_measured(start, batch, expected):
    pytest.importorskip("peft", reason="peft is not installed")
    pytest.importorskip("optimum.quanto", reason="optimum.quanto is not installed")
    row = quantised_ways.measure(start, "quanto int8", batch, expected[0])
    assert row[:4] == ("quanto int8", "yes", "no", "yes")
    assert 0 < float(row[4]) < 0.1 and float(row[5]) < 1e-3 and row[6] == "100%"
