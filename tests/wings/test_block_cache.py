"""A `GrowingLayer` is a `DynamicLayer` in all that can be seen of it, and writes over nothing."""

import copy
import random

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from wings.cache.block_cache import GrowingLayer

ROWS, HEADS, WIDTH = 2, 3, 4


def taken_in(layer, draw, rows, length):
    new = [torch.randn(rows, HEADS, length, WIDTH, generator=draw) for _ in range(2)]
    return layer.update(*new)


def change(layer, what, rows):
    """The layer after one change, and how many rows it has."""
    if what == "crop" and layer.get_seq_length() > 2:
        layer.crop(-2)
    elif what == "reorder":
        layer.reorder_cache(torch.arange(rows).flip(0))
    elif what == "repeat" and rows < 8:
        layer.batch_repeat_interleave(2)
        rows *= 2
    elif what == "select" and rows > 1:
        layer.batch_select_indices(torch.arange(rows - 1))
        rows -= 1
    elif what == "copy":
        layer = copy.deepcopy(layer)
    elif what == "reset":
        layer.reset()
    return layer, rows


@pytest.mark.parametrize("seed", range(20))
def test_it_is_a_dynamic_layer_that_writes_over_nothing(seed):
    choose, layers, rows = random.Random(seed), [DynamicLayer(), GrowingLayer()], ROWS
    draws = [torch.Generator().manual_seed(seed) for _ in layers]
    seen = []
    changes = ["crop", "reorder", "repeat", "select", "copy", "nothing", "nothing", "nothing"]
    modes = [torch.no_grad, torch.no_grad, torch.inference_mode, torch.enable_grad]
    for _ in range(60):
        length, mode = choose.choice([1, 1, 1, 5, 80]), choose.choice(modes)
        with mode():
            found = [taken_in(*pair, rows, length) for pair in zip(layers, draws, strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        seen += [(tensor, tensor.clone()) for tensor in found[1]]
        assert all(torch.equal(now, then) for now, then in seen)
        what = choose.choice(changes)
        with mode():
            (layers[0], _), (layers[1], rows) = (change(layer, what, rows) for layer in layers)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()


def test_a_token_is_written_where_there_is_room():
    layer, draw = GrowingLayer(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        taken_in(layer, draw, ROWS, 100)
        first, _ = taken_in(layer, draw, ROWS, 1)
        places = {taken_in(layer, draw, ROWS, 1)[0].data_ptr() for _ in range(63)}
    assert places == {first.data_ptr()}


def test_gradients_flow_through_pieces():
    layer, pieces = GrowingLayer(), [torch.randn(1, 1, 2, 2, requires_grad=True) for _ in range(3)]
    for piece in pieces:
        keys, _ = layer.update(piece, piece)
    keys.square().sum().backward()
    assert all(torch.equal(piece.grad, 2 * piece) for piece in pieces)


def test_a_wider_type_is_taken_as_a_dynamic_layer_takes_it():
    layer = GrowingLayer()
    with torch.no_grad():
        for dtype in (torch.float16, torch.float16, torch.float32):
            keys, _ = layer.update(*(torch.ones(1, 1, 1, 2, dtype=dtype) for _ in range(2)))
    assert keys.dtype == torch.float32
    assert keys.shape[2] == 3


@torch.no_grad()
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_and_its_original_go_their_own_ways(how):
    def some():
        return torch.randn(2, 2, 1, 4)

    layer = GrowingLayer()
    for _ in range(3):
        layer.update(some(), some())
    before, other = layer.keys.clone(), how(layer)
    for _ in range(3):
        for one in (layer, other):
            key, value, length = some(), some(), one.keys.shape[2]
            keys, values = one.update(key, value)
            assert keys.shape[2] == values.shape[2] == length + 1
            assert torch.equal(keys[:, :, :3], before)
            assert torch.equal(keys[:, :, -1:], key) and torch.equal(values[:, :, -1:], value)
