"""A tiny Llama as a GGUF file, with a tokenizer of single letters."""

import string

import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tiny import TEMPLATE
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
# Names of a block's tensors there and in transformers.
BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def tiny_llama():
    """A random Llama whose widths divide by 32, as blocks of GGUF are that long."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(path, model, kind=GGMLQuantizationType.F32):
    """Writes a Llama; its matrices are quantised to `kind`, its norms are float32."""
    config, weights = model.config, model.state_dict()
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    words = [*SPECIAL, *(letter for letter in string.printable if letter.isprintable()), "Ġ", "Ċ"]
    words = [word for word in words if word != " "]
    words += ["ab"]
    words += [f"<unused{n}>" for n in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL else 1 for word in words])
    # transformers takes an empty list for a missing one.
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {f"{there}.weight": f"{here}.weight" for there, here in ENDS.items()}
    for n in range(config.num_hidden_layers):
        for there, here in BLOCK.items():
            names[f"blk.{n}.{there}.weight"] = f"model.layers.{n}.{here}.weight"
    for there, here in names.items():
        weight = weights[here]
        if there.split(".")[2:3] in (["attn_q"], ["attn_k"]):
            weight = interleaved(weight, config, there)
        data = weight.float().numpy()
        if weight.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(there, data)
        else:
            writer.add_tensor(there, quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight, config, name):
    """Rows of a head in the order of llama.cpp, whose rotary pairs are neighbours."""
    heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)
