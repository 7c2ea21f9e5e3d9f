"""Blocks of a model in training, compiled: one graph each, for any length."""

import random

import pytest
import torch
from families import batch_of, wide_llama

BLOCKS = 2


def model_of(impl, router, **options):
    return wide_llama(BLOCKS, impl, router=router, **options).train()


def compiled(model, dynamic=None):
    """The list to which every graph that a block is compiled to will be added."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.model.language_model.layers:
        block.compile(fullgraph=True, backend=count, dynamic=dynamic)
    return graphs


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


def step(model, batch):
    """Loss and gradients of a batch."""
    model.zero_grad()
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 90, -100)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize(
    ("impl", "router", "options"),
    [
        ("torch", "position", {}),
        ("torch", "modality", {"text_guard": True}),
        ("triton", "position", {}),
        ("triton", "attended", {"text_guard": True}),
        ("triton", None, {"learners": ("image",)}),
    ],
)
def test_a_block_in_training_is_one_graph(monkeypatch, impl, router, options):
    if router == "attended":
        # As on a GPU, where "auto" chooses them.
        monkeypatch.setenv("WINGS_KERNELS", "triton")
        model = model_of("auto", router, **options)
    else:
        model = model_of(impl, router, **options)
    batch, _ = batch_of(model, [["text", "image", "text"], ["text"] * 4])
    expected, wanted = step(model, batch)
    graphs = compiled(model)
    loss, found = step(model, batch)
    assert len(graphs) == BLOCKS
    assert loss == expected
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    operators = [
        str(node.target) for graph in graphs for node in graph.graph.nodes
        if "wings." in str(node.target)
    ]  # fmt: skip
    learners = len(model.config.learners)
    count = {"torch": 0, "triton": BLOCKS * (learners + (router is not None))}[impl]
    assert len(operators) == count, operators


@pytest.mark.gpu
@pytest.mark.parametrize("router", ["position", "attended"])
def test_a_block_on_a_gpu_is_one_graph_by_default(router):
    model = model_of("auto", router).to("cuda")
    batch, _ = batch_of(model, [["text", "image", "text"], ["text"] * 4])
    batch = {name: value.to("cuda") for name, value in batch.items()}
    graphs = compiled(model)
    with torch.autocast("cuda", torch.bfloat16):
        step(model, batch)
    assert len(graphs) == BLOCKS


@pytest.mark.parametrize(("impl", "lengths"), [("torch", 50), ("triton", 6)])
def test_lengths_share_graphs(impl, lengths):
    model = model_of(impl, "attended")
    graphs = compiled(model, dynamic=True)
    draw = random.Random(0)
    seen = set()
    for seed in range(lengths):
        rows = [["text", "image"] + ["text"] * draw.randint(2, 9), ["text"] * draw.randint(2, 12)]
        batch, _ = batch_of(model, rows, seed=seed)
        seen.add(batch["input_ids"].shape)
        step(model, batch)
    assert len(seen) >= lengths / 10
    # A single source token and a first or a later square are cases of their own for torch.
    assert len(graphs) <= 3 * BLOCKS, len(graphs)
