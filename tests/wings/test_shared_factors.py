"""Learners that share their factors: the same function with half of the weights."""

import copy

import pytest
import torch
from draws import examples
from families import Layouts, batch_of, build, logits
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from wings import WingsCache, WingsForCausalLM
from wings.errors import WingsError

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.mark.parametrize("router", ["position", "attended", None])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@examples(6, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000))
def test_it_equals_two_learners_with_the_same_factors(family, router, seed):
    shared = build(family, router=router, share_factors=True)
    two = copy.deepcopy(build(family, router=router))
    state = shared.state_dict()
    state |= {name.replace(".image.", ".text."): t for name, t in state.items()}
    two.load_state_dict(state)
    assert "text_learners" not in shared.parameter_groups()
    batch, _ = batch_of(shared, Layouts(seed).rows(2), seed, side="left")
    whole = logits(shared, batch)
    torch.testing.assert_close(whole, logits(two, batch), **CLOSE)
    # The last token alone, from a cache.
    cache, pictures = WingsCache(shared.config), batch.pop("pixel_values", None)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if (ids[:, -1] == shared.config.image_token_id).any():
        return
    first = {} if pictures is None else {"pixel_values": pictures}
    with torch.no_grad():
        shared(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], cache=cache, **first)
        last = shared(input_ids=ids[:, -1:], attention_mask=mask, cache=cache).logits
    torch.testing.assert_close(last[:, 0], whole[:, -1], **CLOSE)


def test_stage_one_goes_on_with_shared_factors_and_a_checkpoint_keeps_them(tmp_path):
    first = build("llama", learners=("image",), router=None)
    first.save_pretrained(tmp_path / "one")
    model = WingsForCausalLM.from_pretrained(
        tmp_path / "one", learners=("image", "text"), share_factors=True
    )
    model.save_pretrained(tmp_path / "two")
    again = WingsForCausalLM.from_pretrained(tmp_path / "two")
    batch, _ = batch_of(model, Layouts(1).rows(2))
    assert torch.equal(logits(again, batch), logits(model, batch)) and again.config.share_factors
    build("llama").save_pretrained(tmp_path / "both")
    with pytest.raises(WingsError, match="tensors that the model has no parameter for"):
        WingsForCausalLM.from_pretrained(tmp_path / "both", share_factors=True)
    again.train()(**batch, labels=batch["input_ids"] % 96).loss.backward()
    assert all(p.grad is not None for n, p in again.named_parameters() if ".wings." in n)
