"""MetricTracker of a logged step: what they count, what they do not disturb."""

import copy

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig

from wings.attention.token_layout import IMAGE, PADDING, TEXT
from wings.config import WingsConfig
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.collator import Collator
from wings.train.data.dataset import ConversationDataset
from wings.train.data.sampler import RecordSampler
from wings.train.metrics import metric_tracker
from wings.train.metrics.batch_counts import count, layout_of, names_of
from wings.train.metrics.flops import Flops, encoder_flops, peak_flops
from wings.train.run import train


def sample(processor, text, images=0):
    parts = [{"type": "image", "image": Image.new("RGB", (28, 28), "red")}] * images
    turns = [
        {"role": "user", "content": [*parts, {"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]
    return processor.encode(turns)


def packed(processor):
    """One row of three sequences, two with pictures, and padding behind."""
    rows = [sample(processor, "one", 1), sample(processor, "twotwo"), sample(processor, "3", 2)]
    ids = torch.cat([row["input_ids"] for row in rows])
    positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])
    pad = (0, 3)
    batch = {
        "input_ids": torch.nn.functional.pad(ids, pad)[None],
        "labels": torch.nn.functional.pad(torch.cat([r["labels"] for r in rows]), pad, value=-100),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), pad)[None],
        "position_ids": torch.nn.functional.pad(positions, pad, value=1)[None],
        "pixel_values": torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row]),
    }
    return {**batch, "labels": batch["labels"][None]}


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("kind", ["padded", "packed", "text"])
def test_counts_are_those_of_the_definition(make_model, guard, kind):
    model, processor = make_model(text_guard=guard)
    if kind == "packed":
        batch = packed(processor)
    else:
        images = (0, 0) if kind == "text" else (2, 0)
        rows = [sample(processor, f"{n} words", n) for n in images]
        batch = Collator(processor.tokenizer.pad_token_id)([*rows, sample(processor, "longer one")])
    found = dict(zip(names_of(model.config), count(batch, model.config).tolist(), strict=True))
    layout = layout_of(batch, model.config)
    real = layout.kind != PADDING
    images = len(batch.get("pixel_values", ()))
    acts = layout.sees_sense(IMAGE) if guard else real
    sees = layout.sees(layout)
    expected = {
        "places": real.numel(),
        "tokens": real.sum(),
        "image_tokens": images * model.config.image_seq_length,
        "images": images,
        "trained": (batch["labels"][:, 1:] != -100).sum(),
    }
    causal = layout.position[:, None] <= layout.position[..., None]
    same = layout.segment[:, None] == layout.segment[..., None]
    expected["pairs"] = (causal & same & real[:, None] & real[..., None]).sum()
    works = bool(images) or not guard
    for name, number in (("image", IMAGE), ("text", TEXT)):
        pairs = sees & (layout.kind == number)[:, None] & acts[..., None]
        expected |= {
            f"{name}_queries": pairs.any(-1).sum() * works,
            f"{name}_sources": (layout.kind == number).sum() * works,
            f"{name}_pairs": pairs.sum() * works,
        }
    assert found == {name: int(number) for name, number in expected.items()}


def counted(work):
    """FLOPs of a call as torch counts them; the plain attention, as the fused one counts as 0."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize(("trained", "prefix"), [(True, 0), (False, 0), (True, 5)])
def test_the_decoders_flops_are_those_that_torch_counts(make_model, trained, prefix):
    model, _ = make_model(learners=(), prefix_length=prefix)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(trained)
    flops, length = Flops.of(model), 24
    embeddings = torch.randn(1, length, 32, requires_grad=True)

    def step():
        hidden = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
        model.lm_head(hidden).sum().backward()

    # Torch multiplies the whole square, of which half is asked for.
    expected = flops.token * length + flops.trained * length + flops.pair * length**2
    assert counted(step) == expected


def test_a_token_meets_a_few_experts(make_model):
    dense, _ = make_model(learners=())
    text = MixtralConfig(
        **{name: dense.config.text_config.to_dict()[name] for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads",
        )},
        num_local_experts=4,
        num_experts_per_tok=2,
    )  # fmt: skip
    sparse = WingsForCausalLM(
        WingsConfig(text_config=text, vision_config=dense.config.vision_config, learners=(), rank=4)
    )
    mlp, gate = 3 * 32 * 64, 32 * 4
    more = Flops.of(sparse).token - Flops.of(dense).token
    assert more == 2 * 3 * 2 * (mlp + gate)


@pytest.mark.parametrize("form", ["lorra", "cross_attention"])
def test_the_learners_flops_are_those_that_torch_counts(make_model, form):
    model, processor = make_model(router=None, learner_form=form)
    plain, _ = make_model(learners=())
    batch = Collator(0)([sample(processor, "what is this", 2)])
    del batch["labels"]
    found = count({**batch, "labels": batch["input_ids"]}, model.config).tolist()
    counts = dict(zip(names_of(model.config), found, strict=True))
    ((_, flops),) = Flops.of(model).senses
    with torch.no_grad():
        more = counted(lambda: model(**batch, use_cache=False)) - counted(
            lambda: plain(**batch, use_cache=False)
        )
    tokens, pictures = counts["tokens"], counts["image_sources"]
    words = counts["text_sources"]
    # A third of a step's is forward. The causal squares are half of what torch multiplies, and A_o
    # goes with the keys' heads; tokens that see nothing are computed and dropped.
    products = flops.query * 2 * tokens + flops.source * (pictures + words)
    squares = flops.learner_pair * (counts["image_pairs"] + counts["text_pairs"])
    assert products / 3 < more <= (products + 2 * squares) / 3 * 1.2


def test_the_towers_flops_are_those_of_the_blocks_that_run(make_model):
    """Four patches and a class token of width 32, through the first block of two."""
    patches = 2 * 4 * (3 * 14 * 14) * 32
    products = 2 * 5 * 32 * (3 * 32 + 32 + 2 * 4 * 32)
    pairs = 2 * 2 * 5 * 5 * 32
    model = make_model()[0]
    assert encoder_flops(model.model.vision_tower) == patches + products + pairs
    ((_, whole),), ((_, cached),) = Flops.of(model).senses, Flops.of(model, encodes=False).senses
    assert whole.item - cached.item == patches + products + pairs and cached.item > 0


def test_what_a_card_can_do():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40S") == 362e12 and peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("Tesla V100-SXM2-16GB") == 125e12
    for name in ("", "NVIDIA GeForce GTX 1080", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert peak_flops(name) is None


def batches_of(recipe):
    """Every global batch of a run, collated as one."""
    processor = WingsProcessor.from_pretrained(recipe.start)
    data = ConversationDataset(recipe.data, processor, recipe.max_length)
    order = list(RecordSampler(data.lengths, [1.0, 1.0], recipe.batch_size, recipe.seed))
    collate = Collator(processor.tokenizer.pad_token_id)
    for start in range(0, len(order), recipe.batch_size):
        yield collate([data[number] for number in order[start : start + recipe.batch_size]])


def test_figures_of_a_run(make_recipe, monkeypatch):
    recipe = make_recipe("instruct", steps=6, log_every=2)
    assert not any("mfu" in entry for entry in train(recipe).history)
    monkeypatch.setattr(metric_tracker, "peak_flops", lambda name: 1e9)
    recipe.output += "-2"
    result = train(recipe)
    batches = list(batches_of(recipe))
    model = WingsForCausalLM.from_pretrained(recipe.start, learners=["image", "text"])
    for entry, steps in zip(result.history, ((0,), (1,), (2, 3), (4, 5)), strict=True):
        counts = torch.stack([count(batches[n], model.config) for n in steps]).sum(0)
        counts = dict(zip(names_of(model.config), counts.tolist(), strict=True))
        assert entry["padding"] == round(1 - counts["tokens"] / counts["places"], 4)
        assert entry["image_tokens"] == round(counts["image_tokens"] / counts["tokens"], 4)
        assert entry["tokens_per_second"] > 0 and 0.1 < entry["memory_gib"] < 100
        assert entry["mfu"] > 0
    # The model is trained as a whole: its tower alone is frozen.
    seconds = counts["tokens"] / entry["tokens_per_second"]
    model.model.vision_tower.requires_grad_(False)
    done = Flops.of(model).total(counts)
    assert entry["mfu"] == pytest.approx(done / seconds / 1e9, rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gates_are_means_over_tokens_that_see_an_image(
    make_recipe, make_model, tmp_path, checkpointing
):
    """Those of a router that is no longer even, as the model itself gives them."""
    model, processor = make_model()
    for weight in model.parameter_groups()["router"]:
        torch.nn.init.normal_(weight, std=3.0)
    recipe = make_recipe(
        "instruct", start=None, steps=2, device_batch_size=2, gradient_checkpointing=checkpointing,
        output=str(tmp_path / "gates"), learning_rates={"router": 1e-9},
    )  # fmt: skip
    saved = copy.deepcopy(model).eval()
    entry = train(recipe, model, processor).history[0]
    recipe.start = str(tmp_path / "saved")
    processor.save_pretrained(recipe.start)
    batch = next(batches_of(recipe))
    with torch.no_grad():
        weights = saved(**batch, output_router_weights=True).router_weights
    sees = layout_of(batch, model.config).sees_sense(IMAGE)
    for layer, gates in enumerate(weights):
        means = gates[sees].mean(0).tolist()
        for name, mean in zip(model.config.learners, means, strict=True):
            assert abs(mean - 0.5) > 1e-3
            assert entry[f"gate/{name}/{layer}"] == pytest.approx(mean, abs=1e-4)


def test_what_is_watched_does_not_change_what_is_trained(make_recipe, tmp_path):
    ends = []
    for every in (1, 100):
        recipe = make_recipe(
            "instruct", log_every=every, steps=6, output=str(tmp_path / str(every)),
            learning_rates={"language_model": 1e-3}, gradient_checkpointing=True,
        )  # fmt: skip
        result = train(recipe)
        ends.append(WingsForCausalLM.from_pretrained(result.folder).state_dict())
        gates = [sum(name.startswith("gate/") for name in entry) for entry in result.history]
        assert gates == [4] * len(gates) and len(gates) == (6 if every == 1 else 2)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_without_a_router_there_are_no_gates(make_recipe):
    result = train(make_recipe("align", log_every=1))
    assert not any(name.startswith("gate/") for entry in result.history for name in entry)


def test_a_batch_without_a_trained_token_trains_nothing(make_recipe, monkeypatch):
    """Not 0 / 0, which would leave nothing of the weights; beside others it does not matter."""
    original = ConversationDataset.__getitem__

    def silent(self, number):
        sample = original(self, number)
        return {**sample, "labels": torch.full_like(sample["labels"], -100)}

    recipe = make_recipe("instruct", steps=2, device_batch_size=1)
    before = WingsForCausalLM.from_pretrained(recipe.start).state_dict()
    monkeypatch.setattr(ConversationDataset, "__getitem__", silent)
    result = train(recipe)
    assert result.losses == [0.0, 0.0] and result.history[0]["grad_norm"] == 0.0
    after = WingsForCausalLM.from_pretrained(result.folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
