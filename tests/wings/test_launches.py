"""How many operations a block of a decoded token runs beside those of the bare LLM."""

import pytest
import torch
from families import batch_of, wide_llama

from wings.kernels.bench.counts import count, size_of

ROW = ["text", "image", "text"]


def counts(blocks, impl, bare=False, dtype=torch.float32, parts=ROW, **options):
    """Of one token after a row of pictures and text."""
    model = wide_llama(blocks, impl, text_guard=True, **options).to(dtype).eval()
    batch, _ = batch_of(model, [parts])
    token = torch.tensor([[7]])
    if bare:
        model = model.extract_language_model()
        batch = {"input_ids": batch["input_ids"].clamp(max=60)}
    elif "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
        model(input_ids=token, cache=cache, use_cache=True)
        return count(lambda: model(input_ids=token, cache=cache, use_cache=True))


def of_a_block(impl, **options):
    """Launches and bytes of one block."""
    more, less = (counts(blocks, impl, **options) for blocks in (3, 2))
    return tuple(
        getattr(more, name).total() - getattr(less, name).total() for name in ("launches", "bytes")
    )


# A GPU runs half precision; casts are operations too.
@pytest.mark.parametrize(
    ("dtype", "options", "in_torch", "in_triton"),
    [
        (torch.float32, {"router": None, "learners": ("image",)}, 12, 5),
        (torch.float32, {"router": "attended", "learners": ("image",)}, 21, 6),
        (torch.float32, {"router": "position"}, 41, 20),
        (torch.bfloat16, {"router": None, "learners": ("image",)}, 15, 5),
        (torch.bfloat16, {"router": "attended", "learners": ("image",)}, 29, 6),
        (torch.bfloat16, {"router": "position"}, 50, 21),
    ],
)
def test_operations_a_block_more_than_the_llm(dtype, options, in_torch, in_triton):
    bare, _ = of_a_block("torch", bare=True, dtype=dtype)
    for impl, most in (("torch", in_torch), ("triton", in_triton)):
        assert of_a_block(impl, dtype=dtype, **options)[0] - bare <= most


def test_bytes_of_operations():
    """Of each operation what it reads and writes, repeats of a view once, lookups by rows."""
    rows, row = torch.zeros(8, 4), torch.zeros(1, 4)
    places = torch.zeros(2, dtype=torch.long)
    for call, size in (
        (lambda: rows + row, (32 + 4 + 32) * 4),
        (lambda: rows.add_(row.expand(8, 4)), (32 + 4) * 4),
        (lambda: rows @ rows.T, (32 + 32 + 64) * 4),
        (lambda: rows.copy_(row), (32 + 4) * 4),
        (lambda: rows.view(4, 8)[:2], 0),
        (lambda: torch.nn.functional.embedding(places, rows), 2 * 2 * 4 * 4 + 2 * 8),
        (lambda: rows[places], 2 * 2 * 4 * 4 + 2 * 8),
    ):
        assert count(call).bytes.total() == size
    assert size_of(rows[:0]) == 0 and size_of(row.expand(9, 4)) == 16
    assert count(lambda: rows + row).launches == {"add": 1}


@pytest.mark.parametrize("router", ["attended", None])
def test_the_kernels_read_little_more_than_the_fewest_bytes(router):
    """Beside a block of the LLM: six factors, and each token of 160 with its products once."""
    options = {"parts": ["text"] + ["image"] * 40 + ["text"] * 5}
    # Without learners and router the same model is the LLM with this package's cache.
    _, bare = of_a_block("torch", router=None, learners=(), **options)
    _, both = of_a_block("triton", router=router, learners=("image",), **options)
    _, in_torch = of_a_block("torch", router=router, learners=("image",), **options)
    width, rank, head, keys = 32, 4, 16, 160
    fewest = 4 * (6 * width * rank + keys * (width + 2 * rank + head))
    assert 1 <= (both - bare) / fewest <= 1.15
    assert both < in_torch
