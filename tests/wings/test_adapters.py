"""Guarded LoRA: off without an image, weighed by attention, the same in every way to run a pass."""

import copy
import pickle
import threading
from functools import partial

import pytest
import torch
from draws import examples
from families import (
    FAMILIES,
    MAIN,
    Layouts,
    batch_of,
    build,
    chunked_logits,
    logits,
    packed,
    single,
)
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from wings import WingsCache, WingsForCausalLM, WingsStaticCache
from wings.errors import WingsError
from wings.layers.adapter import AdapterMixin
from wings.upstream.weights import checkpoint_blocks

CLOSE = {"atol": 3e-5, "rtol": 2e-4}
# Each case has layouts of its own: together they are many.
RANDOM = examples(3, suppress_health_check=list(HealthCheck))
GATES = [None, "attended", "image_tokens"]
WITHOUT_LINEAR = ("gpt2",)
EXPERTS = ("qwen3_moe",)


def adapted(family="llama", gate=None, awake=True, learners=(), **options):
    """A model with adapters that act (`awake`) or are fresh."""
    model = copy.deepcopy(build(family, learners=learners, **options))
    targets = ["q_proj", "o_proj"] if family in EXPERTS else None
    model.reconfigure(lora={"rank": 3, "gate": gate, "targets": targets})
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b") and awake:
            parameter.data.normal_(std=0.5)
    return model.eval()


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, AdapterMixin)]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_LINEAR])
def test_fresh_adapters_change_nothing_and_text_is_always_the_decoders(family, gate):
    plain = build(family, learners=())
    text, _ = batch_of(plain, [["text"] * 9, ["text"] * 5])
    mixed, _ = batch_of(plain, [["text", "text", "image", "text", "text"], ["image", "text"]])
    fresh, awake = adapted(family, gate, awake=False), adapted(family, gate)
    real = mixed["attention_mask"].bool()
    torch.testing.assert_close(logits(fresh, mixed)[real], logits(plain, mixed)[real], **CLOSE)
    assert torch.equal(logits(awake, text), logits(plain, text))
    changed, before = logits(awake, mixed), logits(plain, mixed)
    # Routed attention may round otherwise than the decoder's own.
    torch.testing.assert_close(changed[0, :2], before[0, :2], **CLOSE)
    assert (changed[0, 2:] - before[0, 2:]).abs().max() > 1e-3
    with awake.without_wings():
        assert torch.equal(logits(awake, mixed), before)
    names = set(build(family, learners=()).extract_language_model().state_dict())
    assert set(awake.extract_language_model().state_dict()) == names


def test_a_decoder_without_linear_layers_is_refused():
    with pytest.raises(WingsError, match="GPT2Model has no linear layers"):
        adapted("gpt2")


def test_experts_that_get_a_part_of_the_tokens_are_refused():
    model = copy.deepcopy(build("llama", learners=()))
    model.reconfigure(lora={"rank": 2})
    block = model.model.language_model.layers[0]
    own = block.mlp.forward
    block.mlp.forward = lambda x: own(x[:, :-1]).sum() + x
    batch, _ = batch_of(model, [["image", "text", "text"]])
    with pytest.raises(WingsError, match=r"tokens, so a guarded adapter.*lora\.targets"):
        logits(model, batch)


@pytest.mark.parametrize("gate", GATES)
def test_a_layer_computes_the_definition(gate):
    """x W + w x A B alpha / rank, with w of each token from its definition, in float64."""
    model = adapted("llama", gate).double()
    batch, _ = batch_of(model, [["text", "image", "text", "text", "image", "text"]])
    batch["pixel_values"] = batch["pixel_values"].double()
    seen = {}

    def keep(name, module, args, out):
        seen[name] = args[0], out, module

    for name, module in model.named_modules():
        if isinstance(module, AdapterMixin):
            module.register_forward_hook(partial(keep, name))
    with torch.no_grad():
        attentions = model(**batch, use_cache=False, output_attentions=True).attentions
    is_image = batch["input_ids"] == model.config.image_token_id
    sees = (is_image.cumsum(1) > 0).double()
    masses = [(a.mean(1) * is_image[:, None, :]).sum(-1) for a in attentions]
    assert len(seen) == 14
    for name, (x, out, module) in seen.items():
        block = int(name.split("layers.")[1].split(".")[0])
        weights = sees
        if gate == "image_tokens":
            weights = is_image.double()
        elif gate == "attended":
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                block -= 1
            router = model.model.language_model.layers[max(block, 0)].self_attn.wings.lora_router
            gain = torch.nn.functional.softplus(router.lora)
            weights = torch.tanh(gain * masses[block]) * sees if block >= 0 else sees * 0
        share = weights[..., None] * (x @ module.wings.lora_a @ module.wings.lora_b) * 32.0 / 3
        bias = 0 if module.bias is None else module.bias
        # The router's gain is in float32.
        torch.testing.assert_close(out, x @ module.weight.T + bias + share, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("family", MAIN)
@RANDOM
@given(seed=st.integers(0, 10_000))
def test_rows_padding_packing_and_caches_do_not_matter(family, gate, seed):
    layouts = Layouts(f"{family} {gate} {seed}")
    beside, static = layouts.random.choices([False, True], k=2)
    model = adapted(family, gate, learners=("image",) if beside else (), router=None)
    batch, alone = batch_of(model, layouts.rows(2, longest=10), seed, side="left")
    whole, real = logits(model, batch), batch["attention_mask"].bool()
    rows = [logits(model, single(*row)) for row in alone]
    for row, expected in enumerate(rows):
        torch.testing.assert_close(whole[row][real[row]], expected[0], **CLOSE)
    torch.testing.assert_close(logits(model, packed(alone)), torch.cat(rows, 1), **CLOSE)
    room = batch["input_ids"].shape[1] + 3
    cache = WingsStaticCache(model.config, room) if static else WingsCache(model.config)
    found = chunked_logits(model, batch, cache, layouts.random)
    torch.testing.assert_close(found[real], whole[real], **CLOSE)


@pytest.mark.parametrize("router", ["position", "attended", "modality"])
def test_adapters_and_learners_keep_their_own_gates(router):
    options = {"learners": ("image", "text"), "router": router, "learner_layers": (1,)}
    both = adapted("llama", "attended", **options)
    learners = copy.deepcopy(build("llama", **options))
    batch, _ = batch_of(both, [["text", "image", "text", "text"]])
    for module in layers_of(both):
        module.wings.lora_b.data.zero_()
    torch.testing.assert_close(logits(both, batch), logits(learners, batch), **CLOSE)
    assert both.config.layers_with_learners == (1,) and both.config.layers_with_wings == (0, 1)
    names = {name for name in both.state_dict() if "lora_router" in name}
    assert len(names) == 2
    groups = both.parameter_groups()
    assert len(groups["lora"]) == 28
    assert sum(map(len, groups.values())) == len(list(both.parameters()))


@pytest.mark.parametrize("gate", GATES)
def test_a_step_gives_gradients_to_all_and_checkpointing_the_same(gate):
    model = adapted("llama", gate, learners=("image",), router=None).train()
    grown = {}
    for rows in ([["text", "image", "text", "text"]], [["text"] * 5]):
        batch, _ = batch_of(model, rows)
        for way in ("plain", "checkpointed"):
            checkpoint_blocks(model, way == "checkpointed")
            model.zero_grad(set_to_none=True)
            model(**batch, labels=batch["input_ids"] % 96).loss.backward()
            for name, parameter in model.named_parameters():
                if ".wings." in name:
                    assert parameter.grad is not None, name
            grown[way] = {n: p.grad.clone() for n, p in model.named_parameters() if ".wings." in n}
        for name, gradient in grown["plain"].items():
            torch.testing.assert_close(grown["checkpointed"][name], gradient, **CLOSE)
        moved = [n for n, gradient in grown["plain"].items() if "lora_" in n and gradient.any()]
        assert bool(moved) == (rows[0].count("image") > 0)


def test_a_gate_has_no_gradient_from_the_next_blocks_projections():
    model = adapted("llama", "attended").train()
    routers = []
    for number, block in enumerate(model.model.language_model.layers):
        routers.append(block.self_attn.wings.lora_router.lora)
        for name, module in block.named_modules():
            # Only these read the gate of the block before, and only they act.
            if isinstance(module, AdapterMixin) and (
                number == 0 or not name.endswith(("q_proj", "k_proj", "v_proj"))
            ):
                module.wings.lora_b.data.zero_()
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    model(**batch, labels=batch["input_ids"] % 96).loss.backward()
    acting = model.model.language_model.layers[1].self_attn.q_proj.wings.lora_b
    assert acting.any() and acting.grad.any()
    assert not any(router.grad.any() for router in routers)


@pytest.mark.parametrize("gate", GATES)
def test_a_checkpoint_keeps_them(gate, tmp_path):
    model = adapted("qwen2", gate, learners=("image",), router=None)
    batch, _ = batch_of(model, Layouts(3).rows(2))
    model.save_pretrained(tmp_path)
    again = WingsForCausalLM.from_pretrained(tmp_path)
    assert again.config.lora == model.config.lora
    assert torch.equal(logits(again, batch), logits(model, batch))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, batch), logits(model, batch))
    other = WingsForCausalLM.from_pretrained(
        tmp_path, lora={**model.config.lora, "gate": "image_tokens"}
    )
    for one, two in zip(layers_of(other), layers_of(model), strict=True):
        assert torch.equal(one.wings.lora_b, two.wings.lora_b)
    model.reconfigure(lora=None)
    assert not layers_of(model) and "lora" not in model.parameter_groups()
    plain = build("qwen2", learners=("image",), router=None)
    torch.testing.assert_close(logits(model, batch), logits(plain, batch), **CLOSE)
    assert set(model.state_dict()) == set(plain.state_dict())


def test_a_generation_with_a_cache_is_the_full_pass():
    model = adapted("llama", "attended")
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    ids = model.generate(**batch, max_new_tokens=8, do_sample=False)
    length = batch["input_ids"].shape[1]
    whole = logits(model, {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert torch.equal(whole[0, length - 1 : -1].argmax(-1), ids[0, length:])


def test_threads_and_errors_leave_other_passes_alone():
    model = adapted("llama", None)
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    expected = logits(model, batch)
    with model.without_wings():
        bare = logits(model, batch)
    broken = copy.deepcopy(model)
    down = broken.model.language_model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda *_: 1 / 0)
    faults = []

    def work(number):
        for _ in range(10):
            if number == 0:
                with model.without_wings():
                    faults.append(not torch.equal(logits(model, batch), bare))
            else:
                faults.append(not torch.equal(logits(model, batch), expected))

    with pytest.raises(ZeroDivisionError):
        logits(broken, batch)
    handle.remove()
    assert torch.equal(logits(broken, batch), expected)
    # A linear layer outside of a pass is the decoder's own.
    x = torch.randn(1, 2, down.in_features)
    assert torch.equal(down(x), torch.nn.functional.linear(x, down.weight, down.bias))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == 30 and not any(faults)


def test_a_block_without_the_keyword_is_said():
    model = adapted("llama", None)
    block = model.model.language_model.layers[1]
    block.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "wings"}),
        with_kwargs=True, prepend=True,
    )  # fmt: skip
    batch, _ = batch_of(model, [["image", "text"]])
    with pytest.raises(WingsError, match=r"blocks \[1\].*adapters would have no effect"):
        logits(model, batch)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (3, "must be a mapping"),
        ({"rnk": 3}, "no field 'rnk'.*rank"),
        ({"rank": 0}, "lora.rank"),
        ({"rank": True}, "lora.rank"),
        ({"rank": 2.5}, "lora.rank"),
        ({"alpha": float("nan")}, "lora.alpha"),
        ({"alpha": "a"}, "lora.alpha"),
        ({"alpha": float("inf")}, "lora.alpha"),
        ({"dropout": 1.0}, "lora.dropout"),
        ({"dropout": float("nan")}, "lora.dropout"),
        ({"targets": []}, "lora.targets"),
        ({"targets": "q_proj"}, "lora.targets"),
        ({"targets": ["q_prj"]}, "no linear layer 'q_prj'; it has.*q_proj"),
        ({"guard": "no"}, "lora.guard"),
        ({"gate": "open"}, "lora.gate"),
    ],
)
def test_bad_options_are_refused_and_the_model_is_unchanged(lora, said):
    model = copy.deepcopy(build("llama", learners=("image",), router=None))
    batch, _ = batch_of(model, [["image", "text"]])
    before = logits(model, batch)
    with pytest.raises(WingsError, match=said):
        model.reconfigure(lora=lora)
    assert model.config.lora is None and torch.equal(logits(model, batch), before)


def test_trained_adapters_cannot_change_shape():
    model = adapted("llama")
    with pytest.raises(WingsError, match="rank 3 on all linear layers, which cannot change shape"):
        model.reconfigure(lora={"rank": 4})
    assert model.config.adapters.rank == 3
