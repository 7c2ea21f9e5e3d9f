"""Every decoder family of the installed transformers: groups by code, and tiny models."""

import ast
import functools
import inspect
import textwrap
from collections import defaultdict

import torch
import transformers
from families import BASE, FAMILIES, VOCABULARY
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from wings.upstream.causal_lm import replaced_members

# More than this would take seconds.
PARAMETERS = 4_000_000
# Sizes under the names that families give them; each family takes those it knows.
SIZES = {
    "moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "head_dim": 8, "kv_lora_rank": 8, "q_lora_rank": 8,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "mamba_d_ssm": 32,
    "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_num_heads": 4,
    "mamba_head_dim": 8, "ffn_dim": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "is_decoder": True, "first_k_dense_replace": 1,
    "decoder_layers": 2, "encoder_layers": 1, "decoder_attention_heads": 4, "rotary_dim": 4,
    "encoder_attention_heads": 4, "d_model": 32, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48,
    "word_embed_proj_dim": 32, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}  # fmt: skip
# What a causal LM does around its decoder, each with a value that changes something.
AROUND = {
    "logits_scaling": 3.0, "logit_scale": 0.5, "final_logit_softcapping": 0.5,
    "logits_soft_cap": 0.5, "output_multiplier": 2.0, "lm_head_multiplier": 0.5,
    "logits_mup_width_multiplier": 2.0, "unpadded_vocab_size": VOCABULARY - 6,
    "z_loss_coefficient": 0.1, "output_router_logits": True, "router_aux_loss_coef": 0.5,
    "aux_loss_coef": 0.5,
}  # fmt: skip
# Tried one after the other, as families have conditions of their own on sizes and kinds of blocks.
TRIES = (
    {},
    {"num_key_value_heads": 4},
    {"layer_types": ["linear_attention", "full_attention"]},
    {"layer_types": ["full_attention", "full_attention"], "num_key_value_heads": 4},
    {"attn_layer_indices": [1]},
    {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    {"num_hidden_layers": 4},
)
# The types of all causal LMs, of which nothing is imported yet.
KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def class_of(kind):
    """The causal LM of a type."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    return getattr(transformers, name if isinstance(name, str) else name[0])


def code_of(kind):
    """What a causal LM computes around its decoder, as text: two equal ones need one test."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward)))).body[0]
    plain = [s for s in tree.body if not (isinstance(s, ast.Expr) and s is tree.body[0])]
    hooks = sorted(replaced_members(kind) & {"prepare_inputs_for_generation"})
    return "\n".join([*hooks, *(ast.unparse(statement) for statement in plain)])


@functools.cache
def groups():
    """Lists of model types whose causal LMs have the same code around their decoders."""
    found = defaultdict(list)
    for kind in KINDS:
        found[code_of(class_of(kind))].append(kind)
    return list(found.values())


@functools.cache
def tiny_llm(kind):
    """A tiny causal LM of this type that computes logits, or None where none was found."""
    try:
        known = AutoConfig.for_model(kind)
    except Exception:
        return None
    names = set(known.to_dict()) | set(getattr(known, "attribute_map", {}))
    sizes = {k: v for k, v in {**SIZES, **AROUND}.items() if k in names}
    for more in TRIES:
        try:
            config = AutoConfig.for_model(
                kind, **{**sizes, **BASE, **FAMILIES.get(kind, {}), **more}
            )
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            if sum(p.numel() for p in model.parameters()) > PARAMETERS:
                return None
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    # Large logits, so that caps and factors show.
                    parameter.mul_(3.0) if parameter.ndim > 1 else None
                if model(torch.tensor([[3, 4, 5]]), use_cache=False).logits.isfinite().all():
                    return model
        except Exception:
            continue
    return None
