"""Attention masses: what is known by hand, and what whole matrices say, on many families."""

import copy

import pytest
import torch
from decoders import FAMILIES, TEXT, WINDOW, small_lm
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)
from transformers.models.llama import modeling_llama

from wings.errors import WingsError
from wings.eval.attention.key_kinds import KEY_KINDS, key_kinds
from wings.eval.attention.masses import attention_masses, decoder_of

IMAGE = 90
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}
SIGLIP = {"model_type": "siglip_vision_model", "projection_dim": 32, **VISION}
NUMBERED = {"image_token_id": IMAGE, "image_token_index": IMAGE}
SEEING = {
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION},
        **NUMBERED,
    },
    # Tokens of a picture see each other, later ones too.
    "gemma3": {
        "text_config": {"model_type": "gemma3_text", "head_dim": 8, **TEXT, **WINDOW},
        "vision_config": SIGLIP,
        "mm_tokens_per_image": 4,
        **NUMBERED,
    },
    "idefics3": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": VISION,
        "scale_factor": 1,
        "image_token_id": IMAGE,
    },
}


def by_matrices(model, batch, is_image):
    """The definition, from the weights that eager attention hands out."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        found = eager(**batch, use_cache=False, output_attentions=True).attentions
    found = [weights for weights in found if weights is not None]
    mask = batch["attention_mask"].double()
    columns = key_kinds(is_image, mask.bool()).double()
    tokens = mask / mask.sum(1, keepdim=True)
    return torch.stack(
        # What padding looks at does not count.
        [
            torch.einsum("bhts,bsc,bt->bc", w.double().nan_to_num(0), columns, tokens) / w.shape[1]
            for w in found
        ],
        dim=1,
    )


def random_batch(seed, rows=3, width=14):
    """Rows of random length, padded on either side, with random tokens for pictures."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 80, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        missing = int(torch.randint(0, width - 1, (1,), generator=generator))
        if missing and torch.rand(1, generator=generator) < 0.5:
            mask[row, :missing] = 0
        elif missing:
            mask[row, -missing:] = 0
    is_image = (torch.rand(rows, width, generator=generator) < 0.3) & mask.bool()
    return {"input_ids": ids, "attention_mask": mask}, is_image


@pytest.mark.parametrize("family", FAMILIES)
def test_masses_are_those_of_the_matrices(family):
    model = small_lm(family)
    decoder = decoder_of(model)
    before = decoder.config._attn_implementation
    for seed in range(3):
        batch, is_image = random_batch(seed)
        with torch.no_grad():
            logits = model(**batch, use_cache=False).logits
        masses = attention_masses(model, batch, is_image)
        torch.testing.assert_close(masses.main, by_matrices(model, batch, is_image))
        assert (masses.main.sum(-1) <= 1 + 1e-6).all()
        if family != "gpt_oss":
            torch.testing.assert_close(
                masses.main.sum(-1), torch.ones(masses.main.shape[:2]).double()
            )
        # Nothing has changed in the model.
        assert decoder.config._attn_implementation == before and not model.training
        with torch.no_grad():
            assert torch.equal(model(**batch, use_cache=False).logits, logits)


@pytest.mark.parametrize("family", SEEING)
def test_pictures_in_a_vision_language_model(family):
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **SEEING[family]))
    model.eval()
    ids = torch.randint(3, 80, (2, 22))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for row, start in ((0, 6), (0, 13), (1, 2)):
        ids[row, start : start + 4] = IMAGE
    is_image = ids == IMAGE
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, 16, 16)}
    if family == "gemma3":
        batch["token_type_ids"] = is_image.long()
    if family == "idefics3":
        batch["pixel_values"] = torch.randn(2, 2, 3, 16, 16)
        batch["pixel_values"][1, 1] = 0
    masses = attention_masses(model, batch, is_image)
    torch.testing.assert_close(masses.main, by_matrices(model, batch, is_image))
    assert masses.main[0, 0, KEY_KINDS.index("between")] > 0
    assert masses.main[1, 0, KEY_KINDS.index("between")] == 0


@examples(50)
@given(seed=st.integers(0, 10_000))
def test_every_token_is_of_one_kind(seed):
    batch, is_image = random_batch(seed)
    real = batch["attention_mask"].bool()
    kinds = key_kinds(is_image, real)
    assert torch.equal(kinds.sum(-1).bool(), real) and kinds.max() <= 1
    for row in range(len(real)):
        where = real[row].nonzero()[:, 0].tolist()
        pictures = [t for t in where if is_image[row, t]]
        for t in where:
            (kind,) = kinds[row, t].nonzero()[0].tolist()
            if t in pictures:
                name = "image"
            elif t == where[0]:
                name = "sink"
            elif not pictures or t < pictures[0]:
                name = "before"
            else:
                name = "after" if t > pictures[-1] else "between"
            assert KEY_KINDS[kind] == name


def test_what_fails_within_leaves_the_model_as_it_was(monkeypatch):
    model = small_lm("llama").train()

    def stronger(module, query, key, value, mask, scaling, **kwargs):
        return own(module, query, key, value, mask, scaling * 3, **kwargs)

    own = modeling_llama.eager_attention_forward
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", stronger)
    batch, is_image = random_batch(0)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(30)
    with pytest.raises(WingsError, match="computes attention differently"):
        attention_masses(model, batch, is_image)
    assert model.config._attn_implementation == "sdpa" and model.training
    monkeypatch.undo()
    attention_masses(model, batch, is_image)


def test_every_part_trains_or_not_as_before():
    model = small_lm("llama").train()
    model.model.layers[0].eval()
    attention_masses(model, *random_batch(0))
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training


# peft hands its learned prefix to the LLM under the old name.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_adapted_models():
    peft = pytest.importorskip("peft")
    batch, is_image = random_batch(2)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(small_lm("llama"), lora)
    found = attention_masses(adapted, batch, is_image).main
    torch.testing.assert_close(found, by_matrices(adapted.merge_and_unload(), batch, is_image))
    prefix = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = peft.get_peft_model(small_lm("llama"), prefix)
    found = attention_masses(model, batch, is_image).main
    # The prefix stands before the tokens and takes weight that falls on none of them.
    eager = copy.deepcopy(model)
    eager.get_base_model().set_attn_implementation("eager")
    mask = batch["attention_mask"].double()
    columns = key_kinds(is_image, mask.bool()).double()
    tokens = mask / mask.sum(1, keepdim=True)
    with torch.no_grad():
        weights = eager(**batch, use_cache=False, output_attentions=True).attentions
    expected = [
        torch.einsum("bhts,bsc,bt->bc", w[..., 3:].double(), columns, tokens) / w.shape[1]
        for w in weights
    ]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))
    assert found.sum(-1).max() < 0.9


def test_bf16_is_near():
    model = small_lm("llama")
    batch, is_image = random_batch(5)
    exact = attention_masses(model, batch, is_image).main
    with torch.autocast("cpu", torch.bfloat16):
        cast = attention_masses(model, batch, is_image).main
    torch.testing.assert_close(cast, exact, atol=5e-3, rtol=0)
    rounded = attention_masses(model.bfloat16(), batch, is_image).main
    torch.testing.assert_close(rounded, exact, atol=5e-3, rtol=0)


def test_one_token_and_a_row_of_padding():
    model = small_lm("llama")
    one = {"input_ids": torch.tensor([[5]])}
    masses = attention_masses(model, one, torch.tensor([[False]]))
    assert masses.main[0, 0].tolist() == [1, 0, 0, 0, 0]
    batch, is_image = random_batch(1)
    batch["attention_mask"][1] = 0
    assert attention_masses(model, batch, is_image).main[1].abs().max() == 0


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_a_family_that_cannot_be_measured_is_refused(family):
    changes = {"n_head": 4, "n_layer": 2} if family == "bloom" else {"state_size": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(TEXT | changes)))
    batch, is_image = random_batch(0)
    with pytest.raises(WingsError, match="attention"):
        attention_masses(model, batch, is_image)


def test_an_encoder_decoder_and_wrong_shapes_are_refused():
    config = AutoConfig.for_model(
        "t5", d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, vocab_size=96
    )
    batch, is_image = random_batch(0)
    with pytest.raises(WingsError, match="encoder-decoder"):
        attention_masses(AutoModelForSeq2SeqLM.from_config(config), batch, is_image)
    with pytest.raises(WingsError, match="is_item has shape"):
        attention_masses(small_lm("llama"), batch, is_image[:, :-1])
