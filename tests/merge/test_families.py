"""Composite models of transformers, each made tiny: weight 0 gives the LLM inside it back."""

import pytest
import torch
import transformers as hf
from merged import TOKENS, moved, save
from tiny import TEXT, tiny_tokenizer

TOWER = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def qwen2_vl(tie_word_embeddings):
    """The text half has another kind of configuration than the LLM, and other positions."""
    text = {**TEXT, "tie_word_embeddings": tie_word_embeddings}
    positions = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    config = hf.Qwen2VLConfig(
        text_config={**text, "rope_scaling": positions, "bos_token_id": 1, "eos_token_id": 1},
        vision_config=vision,
        tie_word_embeddings=tie_word_embeddings,
    )
    llm = hf.Qwen2ForCausalLM(hf.Qwen2Config(**text))
    return llm, hf.Qwen2VLForConditionalGeneration(config)


def gemma3():
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8)
    config = hf.Gemma3Config(text_config=text, vision_config=TOWER, mm_tokens_per_image=4)
    return hf.Gemma3ForCausalLM(text), hf.Gemma3ForConditionalGeneration(config)


def intern_vl():
    text = hf.Qwen2Config(**TEXT)
    vision = hf.InternVLVisionConfig(**{**TOWER, "image_size": [28, 28], "patch_size": [14, 14]})
    config = hf.InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return hf.Qwen2ForCausalLM(text), hf.InternVLForConditionalGeneration(config)


def idefics3():
    text = hf.LlamaConfig(**TEXT)
    config = hf.Idefics3Config(
        text_config=text, vision_config=TOWER, scale_factor=1, tie_word_embeddings=False
    )
    return hf.LlamaForCausalLM(text), hf.Idefics3ForConditionalGeneration(config)


def mixture():
    config = hf.MixtralConfig(**TEXT, num_local_experts=2)
    return hf.MixtralForCausalLM(config), hf.MixtralForCausalLM(config)


def gpt2():
    config = hf.GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4)
    return hf.GPT2LMHeadModel(config), hf.GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: qwen2_vl(False), "rope_parameters of child is not the LLM's"),
        (lambda: qwen2_vl(True), "rope_parameters of child is not the LLM's"),
        (gemma3, ""),
        (intern_vl, ""),
        (idefics3, ""),
        (mixture, ""),
        (gpt2, ""),
    ],
    ids=["qwen2-vl", "tied qwen2-vl", "gemma3", "intern-vl", "idefics3", "mixtral", "gpt2"],
)
def test_the_language_model_is_found_in_every_form(make, told, merge, tmp_path):
    torch.manual_seed(0)
    llm, child = make()
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    save(tmp_path / "llm", llm)
    save(tmp_path / "child", moved(child, 1), tokenizer)
    folder, printed = merge(tmp_path / "llm", tmp_path / "child", "--weight", 0)
    assert told in printed
    found, info = type(child).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for part in ("get_input_embeddings", "get_output_embeddings"):
        own, base = (getattr(model, part)().weight[:TOKENS] for model in (found, llm))
        assert torch.equal(own, base)
    # All other weights of the LLM are there too, and those beside it are the child's.
    weights = found.state_dict()
    inner = {name: tensor for name, tensor in llm.state_dict().items() if tensor.dim() < 3}
    ends = [name for name in inner if "embed" not in name and "wte" not in name]
    for name in ends:
        if "lm_head" in name:
            continue
        short = name.partition(".")[2]
        assert any(
            key.endswith(short) and torch.equal(tensor, inner[name])
            for key, tensor in weights.items()
        ), name
    for name, tensor in child.state_dict().items():
        if "vision" in name or "visual" in name:
            assert torch.equal(weights[name], tensor), name
