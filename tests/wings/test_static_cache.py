"""Decoding with all room made beforehand, so that a step can be compiled or recorded."""

import pytest
import torch
from accelerate import cpu_offload
from families import batch_of, build, wide_llama
from transformers import CompileConfig

from wings import WingsError, WingsStaticCache

GREEDY = {"do_sample": False, "max_new_tokens": 9, "pad_token_id": 0, "eos_token_id": None}
ROWS = [["text", "image", "text", "text"], ["text"] * 3]


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("rows", [ROWS, [["text"] * 6, ["text"] * 3]])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "mistral"])
def test_a_static_cache_gives_the_same_tokens(family, rows, guard, more):
    model = build(family, text_guard=guard)
    batch, _ = batch_of(model, rows, side="left")
    expected = model.generate(**batch, **GREEDY, **more)
    found = model.generate(**batch, **GREEDY, **more, cache_implementation="static")
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("router", "most_keys"),
    [("position", 8192), ("modality", 0), ("attended", 8192), ("attended", 0), (None, 0)],
)
def test_one_graph_decodes_every_token(monkeypatch, router, most_keys):
    monkeypatch.setattr("wings.cache.wings_cache.MOST_KEYS", most_keys)
    model = build("llama", router=router)
    batch, _ = batch_of(model, ROWS, side="left")
    expected = model.generate(**batch, **GREEDY)
    found, graphs = compiled_tokens(model, batch)
    assert torch.equal(found, expected)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "family",
    ["qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "granite", "olmo2", "smollm3"],
)
def test_one_graph_decodes_every_token_of_a_family(family):
    model = build(family, router="attended", text_guard=True)
    batch, _ = batch_of(model, ROWS, side="left")
    expected = model.generate(**batch, **GREEDY)
    found, graphs = compiled_tokens(model, batch)
    assert torch.equal(found, expected)
    # transformers' caches of a sliding window have one graph more, from when they are full.
    bare = model.extract_language_model().eval()
    text = {"input_ids": batch["input_ids"].clamp(max=60)}
    assert len(graphs) == len(compiled_tokens(bare, text)[1])
    assert len(graphs) == 1 or bare.config.sliding_window


def compiled_tokens(model, batch):
    """Greedy tokens with a static cache and compiled steps, and the graphs that were compiled."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = CompileConfig(fullgraph=True, backend=count, mode=None)
    compiled._compile_all_devices = True
    try:
        found = model.generate(
            **batch, **GREEDY, cache_implementation="static", compile_config=compiled
        )
    finally:
        # The models of these tests are shared.
        del model._compiled_call
        torch._dynamo.reset()
    return found, graphs


@pytest.mark.parametrize("router", ["position", "attended"])
def test_one_graph_decodes_every_token_with_the_kernels(router):
    model = wide_llama(2, "torch", router=router, text_guard=True).eval()
    batch, _ = batch_of(model, ROWS, side="left")
    expected = model.generate(**batch, **GREEDY)
    model.impl = "triton"
    assert torch.equal(model.generate(**batch, **GREEDY), expected)
    found, graphs = compiled_tokens(model, batch)
    assert torch.equal(found, expected)
    (graph,) = graphs
    kernels = [node for node in graph.graph.nodes if "lorra_decode" in str(node.target)]
    # One operator a learner and block.
    assert len(kernels) == 2 * 2


@pytest.mark.parametrize("router", ["position", "attended"])
def test_the_kernels_decode_offloaded_blocks(router):
    """Parameters are on the meta device, but while their module is called."""
    model = wide_llama(2, "triton", router=router, text_guard=True).eval()
    batch, _ = batch_of(model, ROWS, side="left")
    expected = model.generate(**batch, **GREEDY)
    for block in model.model.language_model.layers:
        cpu_offload(block, torch.device("cpu"))
        assert next(block.self_attn.wings.router.parameters()).is_meta
    assert torch.equal(model.generate(**batch, **GREEDY), expected)


def test_room_beyond_the_router_is_refused():
    model = build("llama")
    with pytest.raises(WingsError, match="600 tokens reaches beyond the 512 positions"):
        WingsStaticCache(model.config, 600)


def test_a_picture_may_come_after_guarded_text():
    model = build("llama", text_guard=True)
    text, _ = batch_of(model, [["text"] * 5], seed=1)
    turn, _ = batch_of(model, [["text", "image", "text"]], seed=2)
    cache = WingsStaticCache(model.config, 40)
    with torch.no_grad():
        model(**text, cache=cache)
        first = torch.tensor([[7]])
        model(input_ids=first, cache=cache)
        found = model(
            input_ids=turn["input_ids"], pixel_values=turn["pixel_values"], cache=cache
        ).logits
        whole = torch.cat([text["input_ids"], first, turn["input_ids"]], 1)
        expected = model(input_ids=whole, pixel_values=turn["pixel_values"], use_cache=False).logits
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], atol=2e-5, rtol=1e-4)
