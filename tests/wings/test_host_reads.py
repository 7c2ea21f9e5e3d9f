"""How often the host reads a value from the device: as often with more blocks as with fewer."""

import pytest
import torch
from families import VISION, batch_of, text_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from wings import WingsConfig, WingsForCausalLM

# Methods that bring values to the host, and operations whose result has a size that it must know.
METHODS = {
    "tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__",
    "__contains__", "is_nonzero", "equal",
}  # fmt: skip
OPERATIONS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal",
}  # fmt: skip


class CalledMethods(TorchFunctionMode):
    """Counts calls of `METHODS`."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in METHODS:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


class RunOperations(TorchDispatchMode):
    """Counts runs of `OPERATIONS`."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        has_mask = any(one is not None and one.dtype == torch.bool for one in masks)
        if name in OPERATIONS or has_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def reads(work):
    """The methods and operations of a call that make the host wait."""
    methods, operations = CalledMethods(), RunOperations()
    with methods, operations:
        work()
    return methods.found + operations.found


def reads_of(model, batch):
    """Reads of a training step, of a prompt, of a second part of it, and of a decoded token."""
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 90, -100)
    found = {"training": reads(lambda: model.train()(**batch, labels=labels).loss.backward())}
    model.eval()
    with torch.no_grad():
        found["prompt"] = reads(lambda: model(**batch, use_cache=True))
        cache = model(**batch, use_cache=True).past_key_values
        for name, length in (("later part", 3), ("token", 1)):
            ids = torch.full((len(labels), length), 7)
            mask = torch.ones(len(ids), batch["input_ids"].shape[1] + length)
            batch = {**batch, "input_ids": torch.cat([batch["input_ids"], ids], 1)}

            def step(ids=ids, mask=mask):
                model(input_ids=ids, attention_mask=mask.long(), cache=cache, use_cache=True)

            found[name] = reads(step)
    return {name: sorted(one) for name, one in found.items()}


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_no_block_reads_from_the_device(family, router):
    found = []
    for blocks in (1, 3):
        more = {"layer_types": ["sliding_attention"] * blocks} if family != "llama" else {}
        text = text_config(family, num_hidden_layers=blocks, **more)
        config = WingsConfig(text_config=text, vision_config=VISION, rank=4, router=router)
        model = WingsForCausalLM(config)
        batch, _ = batch_of(model, [["text", "image", "text", "image"], ["text", "text", "image"]])
        found.append(reads_of(model, batch))
    assert found[0] == found[1]


def test_what_is_counted():
    x = torch.arange(3)
    assert reads(lambda: bool(x[0] > 1)) == ["__bool__", "_local_scalar_dense"]
    assert reads(lambda: x.tolist()) == ["tolist"]
    assert reads(lambda: x.nonzero()) == ["nonzero"]
    # The size of what a mask selects is known after a read.
    assert reads(lambda: x[x > 1]) == ["index"]
    assert reads(lambda: x[x]) == []
