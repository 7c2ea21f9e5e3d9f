"""The benchmark's textbook against the operations that models run, on random layouts."""

import pytest
import torch

from wings.attention.routed_attention import Rule, routed_attention
from wings.attention.token_layout import IMAGE, TEXT, TokenLayout
from wings.kernels.bench.inputs import learner_inputs
from wings.kernels.bench.operations import with_gradients
from wings.kernels.bench.setting import Shape
from wings.kernels.bench.versions import learner, textbook, textbook_routed

SHAPE = Shape(24, 4, 2, 40, layers=2, decoding_layers=2, vocabulary=11, rank=3, pixels=28)


@pytest.mark.parametrize("seed", range(4))
def test_textbook_routed_attention_equals_that_of_torch(seed):
    torch.manual_seed(seed)
    batch, heads, groups, length, width, columns = 2, 4, (1, 2, 4, 2)[seed], 37, 8, 3
    make = dict(dtype=torch.float64, requires_grad=True)
    q = torch.randn(batch, heads, length, width, **make)
    k = torch.randn(batch, groups, length, width, **make)
    v = torch.randn(batch, groups, length, width, **make)
    w = torch.randn(batch, length, columns, **make)
    sees = torch.ones(length, length, dtype=torch.bool).tril()[None]
    mask = None
    if seed % 2:
        sees = sees & (torch.rand(batch, length, length) < 0.7) | torch.eye(length).bool()
        mask = sees[:, None]
    ours = routed_attention(q, k, v, w, Rule(mask, 0.4))
    books = textbook_routed(q, k, v, w, sees, 0.4)
    same_with_gradients(ours, books, dict(q=q, k=k, v=v, columns=w))


@pytest.mark.parametrize("kind", [IMAGE, TEXT])
@pytest.mark.parametrize("seed", range(4))
def test_textbook_learner_attention_equals_that_of_torch(seed, kind):
    torch.manual_seed(seed)
    given = learner_inputs(SHAPE, random_layout(seed), kind, torch.float64)
    given = with_gradients(given)
    found = learner(given)
    same_with_gradients((found,), (textbook(given),), given.tensors)
    assert not found[~given.visible.any(-1)].any()


def random_layout(seed):
    """Rows with one image each: short or long, padded or packed."""
    length = (25, 300)[seed % 2]
    is_image = torch.zeros(3, length, dtype=torch.bool)
    mask = torch.ones(3, length, dtype=torch.long)
    for row, start in enumerate(torch.randint(0, length - 8, (3,)).tolist()):
        is_image[row, start : start + SHAPE.image_tokens] = True
    mask[0, :3], mask[1, -5:] = 0, 0
    positions = None
    if seed >= 2:
        mask[:] = 1
        cut = int(torch.randint(5, length - 5, ()))
        positions = torch.cat([torch.arange(cut), torch.arange(length - cut)]).expand(3, -1)
    return TokenLayout.read(is_image.long(), mask, positions, [SHAPE.image_tokens])


def same_with_gradients(ours, books, inputs):
    weights = [torch.randn_like(out) for out in ours]
    found, exact = (
        torch.autograd.grad(outs, list(inputs.values()), weights) for outs in (ours, books)
    )
    for out, book in zip(ours, books, strict=True):
        torch.testing.assert_close(out, book)
    for name, a, b in zip(inputs, found, exact, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"d{name}: {text}")
