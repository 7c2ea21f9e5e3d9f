"""The prefix: its definition, that a fresh one does nothing, and that nothing else concerns it."""

import copy

import pytest
import torch
from draws import examples
from families import (
    FAMILIES,
    HYBRIDS,
    MAIN,
    VISION,
    Layouts,
    batch_of,
    build,
    chunked_logits,
    packed,
    single,
    text_config,
)
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from wings import WingsCache, WingsConfig, WingsError, WingsForCausalLM, WingsStaticCache
from wings.layers.prefix import Prefix
from wings.layers.wings_layer import WingsAttentionMixin
from wings.upstream.weights import checkpoint_blocks

EVERY = [family for family in FAMILIES if family not in HYBRIDS]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SEEDS = st.integers(0, 10_000)
# Each case has layouts of its own: together they are many.
RANDOM = examples(3, suppress_health_check=list(HealthCheck))
# The baseline, and beside learners in every way in which they may be quiet or not.
ALONE = {"learners": (), "prefix_length": 5}
BESIDE = [
    ALONE,
    {"prefix_length": 5},
    {"prefix_length": 3, "router": "modality", "text_guard": True},
    {"prefix_length": 3, "learners": ("image",), "router": None},
]


def logits(model, batch, **more):
    with torch.no_grad():
        return model(**batch, use_cache=False, **more).logits


def fresh(family, **options):
    torch.manual_seed(0)
    options = {"rank": 4, "router_positions": 512, **options}
    config = WingsConfig(text_config=text_config(family), vision_config=VISION, **options)
    return WingsForCausalLM(config).eval()


def prefixes(model):
    return [module for module in model.modules() if isinstance(module, Prefix)]


@pytest.mark.parametrize(
    "options", [ALONE, {"prefix_length": 5, "router": None}, {"prefix_length": 5}]
)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_fresh_prefix_changes_no_bit(family, options):
    with_prefix = fresh(family, **options)
    without = fresh(family, **{**options, "prefix_length": 0})
    batch, _ = batch_of(with_prefix, Layouts(3).rows(3))
    # Drawing more weights moved the numbers that were drawn after them.
    without.load_state_dict(with_prefix.state_dict(), strict=False)
    real = batch["attention_mask"].bool()
    assert prefixes(with_prefix) and not prefixes(without)
    assert torch.equal(logits(with_prefix, batch)[real], logits(without, batch)[real])
    for prefix in prefixes(with_prefix):
        assert prefix.keys.std() > 0.01 and prefix.values.std() > 0.01
        prefix.gates.data.fill_(0.5)
    changed = logits(with_prefix, batch)[real]
    assert (changed - logits(without, batch)[real]).abs().max() > 1e-4


@pytest.mark.parametrize("options", BESIDE)
@pytest.mark.parametrize("family", EVERY)
def test_what_is_added_is_its_definition(family, options):
    """Of every block, against float64: head by head, token by token, before the projection."""
    model = build(family, **options)
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 4], side="left")
    asked = []
    hooks = [
        prefix.register_forward_hook(lambda m, args, out: asked.append((m, *args, out)))
        for prefix in prefixes(model)
    ]
    whole = logits(model, batch)
    for hook in hooks:
        hook.remove()
    assert len(asked) == len(model.config.layers_with_wings) == 2
    for prefix, query, scale, out in asked:
        rows, heads, length, _ = query.shape
        per_key = heads // len(prefix.keys)
        expected, query = torch.zeros_like(out, dtype=torch.float64), query.double()
        k, v, gates = prefix.keys.double(), prefix.values.double(), prefix.gates.double()
        for row in range(rows):
            for head in range(heads):
                keys, values = k[head // per_key], v[head // per_key]
                for token in range(length):
                    weights = (scale * (keys @ query[row, head, token])).exp()
                    mean = weights @ values / weights.sum()
                    expected[row, token, head] = torch.tanh(gates[head]) * mean
        torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
    # And it arrives: the attention's output without it is the one of gates that are closed.
    for prefix in prefixes(model):
        prefix.gates.data.zero_()
    assert (logits(model, batch) - whole).abs().max() > 1e-3


def test_the_queries_are_those_of_the_main_attention(monkeypatch):
    model, seen = build("qwen3", **ALONE), []
    own = WingsAttentionMixin.forward
    monkeypatch.setattr(
        WingsAttentionMixin, "forward", lambda *a, **k: seen.append((a, k)) or own(*a, **k)
    )
    asked = []
    hook = prefixes(model)[0].register_forward_hook(lambda m, args, out: asked.append(args))
    batch, _ = batch_of(model, [["text"] * 6])
    logits(model, batch)
    hook.remove()
    (attention,), given = seen[0]
    turns, hidden = given["position_embeddings"], given["hidden_states"]
    q = attention.q_norm(attention.q_proj(hidden).unflatten(-1, (4, 16))).transpose(1, 2)
    a, b = q.chunk(2, dim=-1)
    turned = q * turns[0][:, None] + torch.cat([-b, a], dim=-1) * turns[1][:, None]
    torch.testing.assert_close(asked[0][0], turned)
    assert asked[0][1] == 16**-0.5


@pytest.mark.parametrize("options", BESIDE)
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_a_prefix_sees_no_future(family, options, seed):
    model = build(family, **options)
    layouts = Layouts(f"{family} {options} {seed}")
    parts = layouts.row(longest=10)
    batch, _ = batch_of(model, [parts], seed)
    cut = layouts.random.randrange(len(parts))
    start = sum(model.config.image_seq_length if p == "image" else 1 for p in parts[:cut])
    changed = {name: value.clone() for name, value in batch.items()}
    tail = changed["input_ids"][:, start:]
    is_text = tail != model.config.image_token_id
    tail[is_text] = (tail[is_text] + 7) % 90 + 3
    if "image" in parts[cut:]:
        changed["pixel_values"][parts[:cut].count("image") :] += 1.0
    after, before = logits(model, changed), logits(model, batch)
    torch.testing.assert_close(after[:, :start], before[:, :start], **CLOSE)


@pytest.mark.parametrize("options", BESIDE)
@pytest.mark.parametrize("family", [*MAIN, "gpt2", "olmo2"])
@RANDOM
@given(seed=SEEDS)
def test_rows_padding_and_packing_do_not_concern_a_prefix(family, options, seed):
    model = build(family, **options)
    rows = Layouts(f"{family} {options} {seed}").rows(3)
    for side in ("left", "right"):
        batch, alone = batch_of(model, rows, seed, side, extra=seed % 3)
        together = logits(model, batch)
        expected = []
        for row, one in enumerate(alone):
            expected.append(logits(model, single(*one)))
            real = batch["attention_mask"][row].bool()
            torch.testing.assert_close(together[row][real], expected[-1][0], **CLOSE)
    torch.testing.assert_close(logits(model, packed(alone)), torch.cat(expected, 1), **CLOSE)


@pytest.mark.parametrize("options", BESIDE)
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=SEEDS)
def test_chunks_and_single_tokens_equal_one_pass(family, options, seed):
    model = build(family, **options)
    layouts = Layouts(f"{family} {options} {seed}")
    static = layouts.random.random() < 0.5
    batch, _ = batch_of(model, layouts.rows(2, longest=10), seed, side="left")
    room = batch["input_ids"].shape[1] + 3
    cache = WingsStaticCache(model.config, room) if static else WingsCache(model.config)
    found = chunked_logits(model, batch, cache, layouts.random)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], logits(model, batch)[real], **CLOSE)


def loss_of(model, batch):
    ids = batch["input_ids"]
    hidden = (ids == model.config.image_token_id) | (batch["attention_mask"] == 0)
    return model(**batch, labels=ids.masked_fill(hidden, -100)).loss


@pytest.mark.parametrize("rows", [[["text", "image", "text", "text"]], [["text"] * 5]])
@pytest.mark.parametrize("options", BESIDE)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_gates_learn_at_once_and_keys_and_values_one_step_later(family, options, rows):
    model = fresh(family, **options).train()
    batch, _ = batch_of(model, rows)
    optimizer = torch.optim.AdamW([p for part in prefixes(model) for p in part.parameters()], 1e-2)
    loss_of(model, batch).backward()
    for prefix in prefixes(model):
        assert prefix.gates.grad.abs().min() > 0
        assert not prefix.keys.grad.any() and not prefix.values.grad.any()
    optimizer.step()
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    for prefix in prefixes(model):
        assert prefix.keys.grad.any() and prefix.values.grad.any()


def test_the_gradient_is_that_of_finite_differences():
    prefix = copy.deepcopy(prefixes(build("qwen3", **ALONE))[0]).double()
    query = torch.randn(2, 4, 3, 16, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in prefix.named_parameters()]

    def out(query, *weights):
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(prefix, given, (query, 0.3))

    assert sorted(names) == ["gates", "keys", "values"]
    assert torch.autograd.gradcheck(out, (query, *prefix.parameters()))


@pytest.mark.parametrize("options", BESIDE)
def test_checkpointed_blocks_have_the_same_gradients(options):
    model = copy.deepcopy(build("llama", **options)).train()
    batch, _ = batch_of(model, Layouts(4).rows(3))
    found = []
    for on in (False, True):
        checkpoint_blocks(model, on)
        model.zero_grad(set_to_none=True)
        loss_of(model, batch).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert sum(".wings.prefix." in name for name in found[0]) == 6
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("options", BESIDE)
def test_autocast_and_low_precision_run(options):
    model = copy.deepcopy(build("llama", **options))
    batch, _ = batch_of(model, Layouts(4).rows(3))
    real, exact = batch["attention_mask"].bool(), logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        near = logits(model, batch)
    half = logits(model.to(torch.bfloat16), batch)
    assert half.dtype == torch.bfloat16
    for found in (near, half):
        assert (found[real].float() - exact[real]).abs().mean() < 0.1 * exact[real].std()


def test_one_graph_decodes_beside_a_prefix():
    from transformers import CompileConfig

    model = build("llama", **ALONE)
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 3], side="left")
    greedy = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(**batch, **greedy)
    assert torch.equal(model.generate(**batch, **greedy, use_cache=False), expected)
    graphs = []
    compiled = CompileConfig(
        fullgraph=True, mode=None, backend=lambda graph, _: graphs.append(graph) or graph.forward
    )
    compiled._compile_all_devices = True
    torch._dynamo.reset()
    try:
        found = model.generate(
            **batch, **greedy, cache_implementation="static", compile_config=compiled
        )
    finally:
        del model._compiled_call
        torch._dynamo.reset()
    assert torch.equal(found, expected) and len(graphs) == 1


@pytest.mark.parametrize("options", [*BESIDE, {**ALONE, "learner_layers": (1,)}])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt_neox"])
def test_round_trip_and_the_language_model_comes_out(family, options, tmp_path):
    model = build(family, **options)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    assert again.config.prefix_length == options["prefix_length"]
    assert again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert len(prefixes(again)) == len(options.get("learner_layers", (0, 1)))
    own = model.parameter_groups()["prefix"]
    assert {id(p) for p in own} == {id(p) for part in prefixes(model) for p in part.parameters()}
    bare = model.extract_language_model()
    assert not any("prefix" in name or "wings" in name for name in bare.state_dict())
    text, _ = batch_of(model, [["text"] * 6])
    plain = logits(build(family, learners=()), text)
    torch.testing.assert_close(logits(bare, text), plain, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "lfm2"])
@pytest.mark.parametrize("options", [{"learners": ()}, {"learners": ("image",), "router": None}])
def test_a_checkpoint_grows_a_prefix(family, options, tmp_path):
    model = build(family, **options)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path / "one")
    grown = WingsForCausalLM.from_pretrained(tmp_path / "one", prefix_length=7)
    assert torch.equal(logits(grown, batch), logits(model, batch))
    assert all(prefix.keys.shape[1] == 7 for prefix in prefixes(grown)) and prefixes(grown)
    assert grown.config.prefix_length == 7 and "prefix" in grown.parameter_groups()
    for prefix in prefixes(grown):
        prefix.gates.data.fill_(0.7)
    grown.save_pretrained(tmp_path / "two")
    again = WingsForCausalLM.from_pretrained(tmp_path / "two", learners=("image", "text"))
    expected = logits(grown, batch)
    assert (expected - logits(model, batch)).abs().max() > 1e-5
    for mine, theirs in zip(prefixes(again), prefixes(grown), strict=True):
        assert torch.equal(mine.gates, theirs.gates) and torch.equal(mine.keys, theirs.keys)
    again.reconfigure(learners=options["learners"], router=None)
    torch.testing.assert_close(logits(again, batch), expected, **CLOSE)
    again.reconfigure(prefix_length=0)
    assert not prefixes(again) and "prefix" not in again.parameter_groups()
    torch.testing.assert_close(logits(again, batch), logits(model, batch), **CLOSE)


def test_a_prefix_of_another_length_is_refused_whole():
    model = copy.deepcopy(build("llama", **ALONE))
    batch, _ = batch_of(model, Layouts(3).rows(2))
    expected = logits(model, batch)
    with pytest.raises(WingsError, match=r"a prefix of 5 keys, which cannot become one of 6"):
        model.reconfigure(learners=("image",), prefix_length=6)
    assert model.config.prefix_length == 5 and model.config.learners == ()
    assert torch.equal(logits(model, batch), expected)


@pytest.mark.parametrize("bad", [-1, True, False, 2.0, "8", None])
def test_bad_lengths_are_refused(bad):
    with pytest.raises(WingsError, match=rf"prefix_length is {bad!r}, but must be a whole number"):
        WingsConfig(
            text_config=text_config("llama"), vision_config=VISION, rank=4, prefix_length=bad
        )
    with pytest.raises(WingsError, match="whole number"):
        copy.deepcopy(build("llama")).reconfigure(prefix_length=bad)


def test_attention_of_another_shape_than_the_configuration_says_is_refused():
    model = copy.deepcopy(build("llama", **ALONE))
    prefixes(model)[0].width = 4
    batch, _ = batch_of(model, [["text"] * 3])
    with pytest.raises(WingsError, match=r"4 heads of width 8 where its configuration says 4 of 4"):
        logits(model, batch)


def test_a_prefix_that_no_attention_asks_for_is_told(monkeypatch):
    """A fresh one changes no logit, so only the block's own note can show that it is dead."""
    model = build("llama", **ALONE)
    batch, _ = batch_of(model, [["text"] * 3])
    monkeypatch.setattr(model.model.language_model.config, "_attn_implementation", "sdpa")
    with pytest.raises(WingsError, match=r"The blocks \[0, 1\] .* would have no effect"):
        logits(model, batch)


@pytest.mark.parametrize("family", EVERY)
def test_pretrained_parts_take_a_prefix(family):
    bare = build(family, learners=()).extract_language_model()
    ids = torch.randint(3, 90, (2, 9))
    with torch.no_grad():
        expected = bare(ids, use_cache=False).logits
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, bare, rank=4, **ALONE)
    assert torch.equal(logits(model, {"input_ids": ids}), expected)
