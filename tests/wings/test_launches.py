"""How many operations a block of a decoded token runs beside those of the bare LLM."""

from collections import Counter

import pytest
import torch
from families import VISION, batch_of, text_config
from torch.utils._python_dispatch import TorchDispatchMode

from wings import WingsConfig, WingsForCausalLM

# Heads that are wide enough for the kernels.
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
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


def launches(blocks, impl, bare=False, **options):
    """Of one token after a picture and two tokens of text."""
    config = WingsConfig(
        text_config=text_config("llama", num_hidden_layers=blocks, **WIDE), vision_config=VISION,
        rank=4, router_positions=512, text_guard=True, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WingsForCausalLM(config).eval()
    model.impl = impl
    batch, _ = batch_of(model, [["text", "image", "text"]])
    token = torch.tensor([[7]])
    if bare:
        model = model.extract_language_model()
        batch = {"input_ids": batch["input_ids"].clamp(max=60)}
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


@pytest.mark.parametrize(
    ("options", "in_torch", "in_triton"),
    [
        ({"router": None, "learners": ("image",)}, 12, 5),
        ({"router": "attended", "learners": ("image",)}, 22, 10),
        ({"router": "position"}, 42, 24),
    ],
)
def test_operations_a_block_more_than_the_llm(options, in_torch, in_triton):
    bare = of_a_block("torch", bare=True)
    assert of_a_block("torch", **options) - bare <= in_torch
    assert of_a_block("triton", **options) - bare <= in_triton
