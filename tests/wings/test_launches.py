"""How many operations a block of a decoded token runs beside those of the bare LLM."""

from collections import Counter

import pytest
import torch
from families import batch_of, wide_llama
from torch.utils._python_dispatch import TorchDispatchMode

# Views run nothing; `promote_types` and `sym_size` only ask.
VIEWS = {
    "view", "_unsafe_view", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze",
    "expand", "t", "unbind", "split", "split_with_sizes", "detach", "alias", "as_strided",
    "narrow", "lift_fresh", "_reshape_alias", "promote_types", "sym_size",
}  # fmt: skip
# Kernels that one of our operators launches.
KERNELS = {"routed_decode": 2, "lorra_decode": 3}


class Launches(TorchDispatchMode):
    """Counts operations by name, our operators by their kernels."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        if name not in VIEWS:
            self.counts[name] += KERNELS.get(name, 1)
        return function(*args, **(kwargs or {}))


def launches(blocks, impl, bare=False, dtype=torch.float32, **options):
    """Of one token after a picture and two tokens of text."""
    model = wide_llama(blocks, impl, text_guard=True, **options).to(dtype).eval()
    batch, _ = batch_of(model, [["text", "image", "text"]])
    token = torch.tensor([[7]])
    if bare:
        model = model.extract_language_model()
        batch = {"input_ids": batch["input_ids"].clamp(max=60)}
    elif "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
    with torch.no_grad():
        cache = model(**batch, use_cache=True).cache
        model(input_ids=token, cache=cache, use_cache=True)
        with Launches() as counted:
            model(input_ids=token, cache=cache, use_cache=True)
    return counted.counts


def of_a_block(impl, **options):
    more = launches(3, impl, **options)
    more.subtract(launches(2, impl, **options))
    return sum(more.values())


# A GPU runs half precision; casts are operations too.
@pytest.mark.parametrize(
    ("dtype", "options", "in_torch", "in_triton"),
    [
        (torch.float32, {"router": None, "learners": ("image",)}, 12, 5),
        (torch.float32, {"router": "attended", "learners": ("image",)}, 21, 6),
        (torch.float32, {"router": "position"}, 41, 23),
        (torch.bfloat16, {"router": None, "learners": ("image",)}, 15, 5),
        (torch.bfloat16, {"router": "attended", "learners": ("image",)}, 29, 6),
        (torch.bfloat16, {"router": "position"}, 50, 24),
    ],
)
def test_operations_a_block_more_than_the_llm(dtype, options, in_torch, in_triton):
    bare = of_a_block("torch", bare=True, dtype=dtype)
    assert of_a_block("torch", dtype=dtype, **options) - bare <= in_torch
    assert of_a_block("triton", dtype=dtype, **options) - bare <= in_triton
