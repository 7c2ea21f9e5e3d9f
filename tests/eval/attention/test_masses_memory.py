"""Measuring stores no matrix of weights: every tensor that it makes is counted."""

import pytest
import torch
from decoders import small_lm
from families import batch_of, build
from torch.utils._python_dispatch import TorchDispatchMode

from wings.eval.attention.masses import attention_masses

# One that torch's fused attention computes, one with scores that are written out in blocks.
MEASURED = ("llama", "gemma2")


class Largest(TorchDispatchMode):
    """The most numbers in any one tensor that is made, those of truth values apart."""

    def __init__(self):
        super().__init__()
        self.numbers = self.truths = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor) and one.dtype == torch.bool:
                self.truths = max(self.truths, one.untyped_storage().nbytes())
            elif isinstance(one, torch.Tensor):
                held = one.untyped_storage().nbytes() // one.element_size()
                self.numbers = max(self.numbers, held)
        return made


@pytest.mark.parametrize("family", MEASURED)
@pytest.mark.parametrize("padded", [False, True])
def test_no_matrix_is_stored(family, padded):
    length = 1536 if family == "llama" else 3072
    model = small_lm(family)
    ids = torch.randint(3, 80, (1, length))
    mask = torch.ones_like(ids)
    mask[0, : 3 * padded] = 0
    is_image = torch.zeros_like(ids, dtype=torch.bool)
    is_image[0, 50:60] = True
    with Largest() as largest:
        attention_masses(model, {"input_ids": ids, "attention_mask": mask}, is_image)
    assert largest.numbers < length * length / 2
    if family == "llama":
        model.set_attn_implementation("eager")
        with Largest() as whole, torch.no_grad():
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        assert whole.numbers >= length * length
    # The mask itself, where there must be one, has a byte a pair, for all heads and blocks.
    assert largest.truths <= length * length
    if family == "llama" and not padded:
        assert largest.truths < length * length / 2


def test_no_matrix_is_stored_for_learners():
    model = build("llama", router="modality")
    length = 1500
    batch, _ = batch_of(model, [["text"] * 20 + ["image"] + ["text"] * length])
    with Largest() as largest:
        attention_masses(model, batch, batch["input_ids"] == model.config.image_token_id)
    assert max(largest.numbers, largest.truths) < length * length / 2
