"""Masses and score of a model whose attention is known, against what is worked out by hand."""

import statistics

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wings.eval.attention.masses import attention_masses
from wings.eval.attention.shift import Curves

# A Llama whose attention is known: tokens are s(ink), b(efore), B, i(mage), a(fter), A.
WORDS = "sbBiaA"
SPOKEN = "sbBiiaAa"


def known_llama(targets):
    """Block l looks at the token `targets[l]` alone wherever it sees one, at all alike elsewhere.

    Hidden channel 0 is 1 for every token, and channel 1 + n tells word n. Queries are channel 0,
    keys the channel of the target, both in the one pair of head channels that rope does not turn.
    Attention and MLP add nothing, so that every block has the same input.
    """
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=len(targets),
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[:, 1 : 1 + len(WORDS)] = torch.eye(len(WORDS))
        for block, target in zip(model.model.layers, targets, strict=True):
            if target is not None:
                block.self_attn.q_proj.weight[1::4, 0] = 100.0
                block.self_attn.k_proj.weight[1, 1 + WORDS.index(target)] = 100.0
    return model


def test_masses_and_score_of_attention_that_is_known():
    ids = torch.tensor([[WORDS.index(letter) for letter in SPOKEN]])
    is_image = ids == WORDS.index("i")
    masses = attention_masses(known_llama([None, "B", "A"]), {"input_ids": ids}, is_image).main[0]
    # Uniform: token t (from 1) gives 1/t to each of the t tokens that it sees.
    share = [sum(1 / t for t in range(first, 9)) / 8 for first in range(1, 9)]
    uniform = [share[0], share[1] + share[2], share[3] + share[4], 0.0, sum(share[5:])]
    # On "B", the third token: the first sees itself, the second both alike, the others B alone.
    on_before = [(1 + 1 / 2) / 8, (1 / 2 + 6) / 8, 0.0, 0.0, 0.0]
    # On "A", the seventh: the six before are uniform, the last two see A alone.
    some = [sum(1 / t for t in range(first, 7)) / 8 for first in range(1, 7)]
    on_after = [some[0], some[1] + some[2], some[3] + some[4], 0.0, some[5] + 2 / 8]
    expected = torch.tensor([uniform, on_before, on_after], dtype=torch.float64)
    torch.testing.assert_close(masses, expected, atol=1e-6, rtol=0)
    before, after = expected[:, 1].tolist(), expected[:, 4].tolist()
    score = Curves(masses[None], "apart").score
    assert score == pytest.approx(1 - statistics.correlation(before, after), abs=1e-5)
    with_sink = [sum(pair) for pair in expected[:, :2].tolist()]
    score = Curves(masses[None], "before").score
    assert score == pytest.approx(1 - statistics.correlation(with_sink, after), abs=1e-5)
