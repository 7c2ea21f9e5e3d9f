"""The bench's memory meter on allocations that are known, and what a learner keeps by it."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wings.attention.token_layout import IMAGE, TEXT
from wings.kernels.bench import inputs
from wings.kernels.bench.batch import layout
from wings.kernels.bench.choices import FORWARDS, make_again, several
from wings.kernels.bench.memory import peak_on_a_cpu
from wings.kernels.bench.preset import QUICK

MEGA = 2**20


def test_memory_meter_adds_up_what_is_held_at_once():
    def pattern():
        a = torch.empty(3 * MEGA, dtype=torch.uint8)
        b = torch.empty(5 * MEGA, dtype=torch.uint8)
        del a
        c = torch.empty(4 * MEGA, dtype=torch.uint8)
        del b, c
        return torch.empty(6 * MEGA, dtype=torch.uint8)

    assert peak_on_a_cpu(pattern) == 9 * MEGA


def test_memory_meter_sees_inside_operators_and_not_what_was_there():
    q = torch.randn(1, 1, 1024, 64)
    mask = torch.ones(1024, 1024, dtype=torch.bool)
    weights = 4 * 1024 * 1024
    # Gradients of an attention that keeps its matrix, and of one that does not.
    plain = peak_on_a_cpu(lambda: (q @ q.mT).softmax(-1) @ q)
    fused = peak_on_a_cpu(lambda: scaled_dot_product_attention(q, q, q, is_causal=True))
    assert 2 * weights <= plain < 2.5 * weights
    assert q.numel() * 4 < fused < weights
    # A boolean mask becomes numbers inside of the operator, and no tensor shows it outside.
    assert peak_on_a_cpu(lambda: scaled_dot_product_attention(q, q, q, mask)) >= weights


def test_memory_of_a_training_step_is_the_same_twice():
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(1000, 64)

    def one():
        weight.grad = None
        (x @ weight).relu().sum().backward()

    peaks = {peak_on_a_cpu(one) for _ in range(3)}
    # Products, their activation and its gradient at once, and no more than one further copy.
    assert len(peaks) == 1 and 2 * 256_000 <= peaks.pop() <= 4 * 256_000


@pytest.mark.parametrize(("kind", "tensors"), [(IMAGE, 2.5), (TEXT, 4)])
def test_a_learner_keeps_little_but_queries_and_their_output(kind, tensors):
    """In units of x; text queries are kept once more, as those between them are a picture's."""
    (shape,), length = QUICK.shapes, 300
    where = layout(shape, 1, length, torch.device("cpu"))
    given = inputs.learner(shape, where, kind, torch.float32)
    kept = peak_on_a_cpu(several(make_again, given)) / FORWARDS
    assert kept < tensors * given.x.nbytes
