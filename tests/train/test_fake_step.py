"""Fake steps: their bytes against the allocator's, their FLOPs against arithmetic."""

import copy

import pytest
import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch.profiler import profile
from transformers import AutoConfig

from wings.config import WingsConfig
from wings.model.causal_lm import WingsForCausalLM
from wings.train.estimate.budget import Budget
from wings.train.estimate.fake_step import FakeBatch, FakeStepRunner
from wings.train.estimate.meta_model import ModelSpec, all_alike
from wings.train.param_groups import plan_groups, prepare_groups
from wings.train.recipe import Recipe
from wings.upstream.weights import checkpoint_blocks

VISION = {
    "vision_cfg": {"image_size": 56, "patch_size": 14, "width": 64, "layers": 3, "head_width": 16}
}
# The estimate may be so far from what the allocator saw.
MARGIN = 0.03


def spec(family="llama", blocks=3, **options):
    text = AutoConfig.for_model(
        family,
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        pad_token_id=0,
    )
    options = {"rank": 8, "router_positions": 512, **options}
    return ModelSpec(WingsConfig(text_config=text, vision_config=VISION, **options), torch.float32)


def recipe(stage="instruct", **changes):
    values = {"stage": stage, "output": "-", "data": [{"path": "-"}], **changes}
    return Recipe.from_dict(values)


def ready(spec, recipe):
    """A model on the meta device, its groups, and their types: float32 throughout."""
    model = spec.build()
    groups = plan_groups(model, recipe).groups
    return model, groups, {group.name: torch.float32 for group in groups}


def fake_step(spec, recipe, batch):
    runner = FakeStepRunner(*ready(spec, recipe), recipe.bf16, recipe.chunk_of_loss)
    return runner.step(batch, recipe.gradient_checkpointing)


def measure(spec, recipe, batch):
    """The allocator's highest point in the second of two micro-batches, over what was there."""
    torch.manual_seed(0)
    model = WingsForCausalLM(copy.deepcopy(spec.config))
    prepare_groups(model, recipe)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    model.train()
    if recipe.gradient_checkpointing:
        checkpoint_blocks(model, True)
    forward = model.forward
    if recipe.bf16:
        forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(forward))

    def step():
        # Without a mode the pictures are real, and so is all that follows.
        inputs = batch.inputs(model, torch.device("cpu"))
        loss = forward(**inputs, loss_chunk=recipe.chunk_of_loss).loss
        loss.backward()
        return inputs

    step()
    with profile(profile_memory=True) as watch:
        inputs = step()
    events = watch.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, size in memory:
        now += size
        peak = max(peak, now)
    kept = sum(t.numel() * t.element_size() for t in inputs.values())
    return peak - kept


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("stage", "changes", "options", "rows"),
    [
        ("instruct", {"bf16": True}, {}, 3),
        ("instruct", {"lora": {"rank": 4}}, {"router": None, "text_guard": True}, 1),
        ("align", {"bf16": True}, {"learners": ("image",), "router": None}, 2),
        ("align", {"loss_chunk": 100}, {"learners": ("image",), "router": None}, 2),
        ("instruct", {"bf16": True, "loss_chunk": 100}, {}, 3),
    ],
)
def test_the_peak_is_the_allocators(stage, changes, options, rows, checkpointing):
    made = spec(**options)
    chosen = recipe(stage, gradient_checkpointing=checkpointing, **changes)
    # Longer than what a learner looks at through a mask.
    batch = FakeBatch(rows, 300)
    estimated = fake_step(made, chosen, batch).peak(sharded=False)
    assert estimated == pytest.approx(measure(made, chosen, batch), rel=MARGIN)


@pytest.mark.parametrize("chunk", [0, 100, 700, 1024])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_and_rows_are_a_straight_line(checkpointing, chunk):
    """A budget draws out two and three blocks, and two and three rows: against all of them."""
    made, chosen = spec(blocks=4), recipe(bf16=True, max_length=270, loss_chunk=chunk)
    budget = Budget(chosen, made, 1, 80.0)
    whole = FakeStepRunner(*ready(made, chosen), True, chosen.chunk_of_loss)
    drawn = budget.step(4, checkpointing)
    found = whole.step(FakeBatch(4, 270), checkpointing)
    assert drawn.peak(False) == pytest.approx(found.peak(False), rel=0.01)
    assert drawn.peak(True) == pytest.approx(found.peak(True), rel=0.01)
    # Without the copies of trained weights that autocast keeps, and with all the rest.
    assert 0 < drawn.peak(True) < drawn.peak(False)
    flops = whole.flops(FakeBatch(1, 270), checkpointing) / 270
    assert budget.flops_per_token(checkpointing) == pytest.approx(flops, rel=1e-6)


def test_many_short_samples_keep_their_items_and_some_text():
    """In chunks a budget runs as many as fill one; a short one must not lose its image."""
    made = spec(blocks=4)
    length = (made.build().config.image_seq_length or 0) + 8
    step, logits = {}, {}
    for chunk in (0, 1024):
        chosen = recipe(max_length=length, device_batch_size=400, batch_size=400, loss_chunk=chunk)
        budget = Budget(chosen, made, 1, 80.0)
        step[chunk], logits[chunk] = budget.step(400, False).peak(False), budget.logits()
    assert step[1024] < step[0] and min(logits.values()) > 0


def test_flops_are_six_a_weight_and_attention():
    made, chosen = spec(learners=(), router=None), recipe(wings={"learners": []})
    model, rows, types = ready(made, chosen)
    length, blocks, width = 300, 3, 128
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n}
    runner = FakeStepRunner(model, rows, types, False)
    found = runner.flops(FakeBatch(1, length), False)
    text = 6 * length * sum(p.numel() for p in matrices.values())
    # Scores and values, each whole: forward 2 products, backward 5 with the scores made again.
    text += 7 * 2 * length * length * width * blocks
    # The head where a token is trained, its own gradient included.
    text += 6 * FakeBatch(1, length).text(model) * 2048 * width
    assert found == pytest.approx(text, rel=0.03) and found > text
    assert runner.flops(FakeBatch(1, length), True) > 1.15 * found


def test_blocks_that_differ_all_run():
    assert all_alike(spec().build())
    mixed = spec("gemma2")
    assert not all_alike(mixed.build())
    budget = Budget(recipe(max_length=40), mixed, 1, 80.0)
    assert budget.step(1, False).peak(False) > 0
