"""The loss in chunks of tokens is the loss of all tokens, with the same gradients."""

import copy

import pytest
import torch
from families import FAMILIES, batch_of, build
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from wings.errors import WingsError
from wings.model.chunked_loss import chunked_loss
from wings.model.head_of_tokens import before_labels

ROWS = [["text", "image", "text", "text"], ["text"] * 9, ["image", "text"]]


def labelled(family):
    model = copy.deepcopy(build(family)).train()
    # Logits so large that a cap or a factor behind the head shows.
    model.lm_head.weight.data.mul_(50)
    batch, _ = batch_of(model, ROWS)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 90, -100)
    return model, batch, labels.masked_fill(batch["attention_mask"] == 0, -100)


def gradients(model, **inputs):
    model.zero_grad()
    torch.manual_seed(0)
    out = model(**inputs, use_cache=False)
    out.loss.backward()
    return out, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_is_that_of_all_logits(family):
    model, batch, labels = labelled(family)
    # A mixture of experts adds a loss of its own, once.
    experts = {"output_router_logits": True} if "moe" in family else {}
    whole, expected = gradients(model, **batch, labels=labels, **experts)
    for chunk in (1, 4):
        found, actual = gradients(model, **batch, labels=labels, loss_chunk=chunk, **experts)
        torch.testing.assert_close(found.loss, whole.loss, atol=1e-5, rtol=1e-5)
        assert found.logits.numel() == 0
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (actual[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_tokens_and_number_of_a_trainer_count():
    model, batch, labels = labelled("llama")
    mask, following = before_labels(labels)
    kept = {
        "logits_to_keep": mask,
        "shift_labels": following,
        "num_items_in_batch": torch.tensor(5),
    }
    whole = model(**batch, labels=labels, **kept)
    found = model(**batch, labels=labels, **kept, loss_chunk=3)
    torch.testing.assert_close(found.loss, whole.loss)
    torch.testing.assert_close(
        found.loss * 5, model(**batch, labels=labels, loss_chunk=3).loss * len(following)
    )


def test_hooks_of_the_head_run_once_a_pass():
    """Sharded weights are gathered by such a hook, and processes have other numbers of chunks."""
    model, batch, labels = labelled("llama")
    calls = []
    model.lm_head.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    model(**batch, labels=labels, loss_chunk=2)
    assert len(calls) == 1 and calls[0][0] > 2
    assert "forward" not in vars(model.lm_head)


def test_a_head_whose_forward_was_replaced_keeps_it():
    model, batch, labels = labelled("llama")
    whole = model(**batch, labels=labels).loss
    own, calls = model.lm_head.forward, []
    model.lm_head.forward = lambda hidden: calls.append(len(hidden[0])) or own(hidden)
    found = model(**batch, labels=labels, loss_chunk=2).loss
    torch.testing.assert_close(found, whole)
    assert len(calls) > 1 and max(calls) == 2


def test_an_error_in_a_chunk_leaves_the_head_as_it_was(monkeypatch):
    model, batch, labels = labelled("llama")
    monkeypatch.setattr(type(model), "loss_function", property(lambda self: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        model(**batch, labels=labels, loss_chunk=2)
    assert "forward" not in vars(model.lm_head)


def test_a_batch_without_a_label_gives_zero():
    model, batch, labels = labelled("llama")
    labels = torch.full_like(labels, -100)
    out = model(**batch, labels=labels, loss_chunk=1, num_items_in_batch=1)
    assert out.loss == 0
    out.loss.backward()
    # Replicas wait for the gradient of each trained weight.
    assert model.lm_head.weight.grad is not None


def test_what_cannot_be_computed_is_refused():
    model, batch, labels = labelled("llama")
    with pytest.raises(WingsError, match="loss_chunk is 4, but there are no labels"):
        model(**batch, loss_chunk=4)
    with pytest.raises(WingsError, match="loss_chunk is 4, but there are no labels"):
        model(**batch, loss_chunk=4, shift_labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(WingsError, match="loss_chunk is 0"):
        model(**batch, labels=labels, loss_chunk=0)
    with pytest.raises(WingsError, match="ignore_index and loss_chunk"):
        model(**batch, labels=labels, loss_chunk=4, ignore_index=3)
    with pytest.raises(WingsError, match="give shift_labels"):
        model(**batch, labels=labels, loss_chunk=4, logits_to_keep=2, shift_labels=None)
    with pytest.raises(WingsError, match="give shift_labels"):
        model(**batch, labels=labels, loss_chunk=4, logits_to_keep=2)


@given(
    tokens=st.integers(0, 9), chunk=st.integers(1, 10), frozen=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_number_of_tokens_in_any_chunks(tokens, chunk, frozen, dtype, seed):
    torch.manual_seed(seed)
    head = nn.Linear(6, 11, dtype=dtype).requires_grad_(not frozen)
    hidden = torch.randn(tokens, 6, dtype=dtype, requires_grad=True)
    labels = torch.randint(-1, 11, (tokens,)).masked_fill(torch.rand(tokens) < 0.2, -100)
    labels = labels.masked_fill(labels == -1, -100)
    most = 0

    def loss_of(part, targets):
        nonlocal most
        most = max(most, len(part))
        return functional.cross_entropy(head(part).float(), targets, reduction="sum")

    trained = [weight for weight in head.parameters() if weight.requires_grad]
    wanted = [hidden, *trained]
    expected = torch.autograd.grad(2 * loss_of(hidden, labels), wanted)
    whole = loss_of(hidden, labels)
    most = 0
    found = chunked_loss(loss_of, hidden, labels, chunk, trained)
    assert most <= chunk
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    actual = torch.autograd.grad(2 * found, wanted)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("trained", [True, False])
def test_hidden_states_without_a_gradient(trained):
    head = nn.Linear(6, 11).requires_grad_(trained)
    hidden, labels = torch.randn(9, 6), torch.randint(0, 11, (9,))

    def loss_of(part, targets):
        return functional.cross_entropy(head(part), targets, reduction="sum")

    weights = [weight for weight in head.parameters() if weight.requires_grad]
    found = chunked_loss(loss_of, hidden, labels, 4, weights)
    torch.testing.assert_close(found, loss_of(hidden, labels))
    assert found.requires_grad == trained
    if trained:
        expected = torch.autograd.grad(loss_of(hidden, labels), weights)
        torch.testing.assert_close(torch.autograd.grad(found, weights), expected)


def test_a_trained_weight_that_the_loss_does_not_read_gets_zeros():
    head, unread = nn.Linear(6, 11), nn.Parameter(torch.ones(3))
    hidden, labels = torch.randn(9, 6, requires_grad=True), torch.randint(0, 11, (9,))

    def loss_of(part, targets):
        return functional.cross_entropy(head(part), targets, reduction="sum")

    loss = chunked_loss(loss_of, hidden, labels, 4, [*head.parameters(), unread])
    loss.backward()
    assert head.weight.grad.any() and torch.equal(unread.grad, torch.zeros(3))


def test_a_family_that_adds_a_loss_of_logits_gets_all(monkeypatch):
    """As Bamba with `z_loss_coefficient`, whose mean over no logits is not a number."""
    model, batch, labels = labelled("llama")
    own = model.own.kind.forward

    def with_z_loss(self, *args, **inputs):
        out = own(self, *args, **inputs)
        if out.loss is not None:
            out.loss = out.loss + 0.1 * out.logits.logsumexp(-1).pow(2).mean()
        return out

    monkeypatch.setattr(model.own.kind, "forward", with_z_loss)
    model.own.adds_loss = None
    whole = model(**batch, labels=labels)
    mask, following = before_labels(labels)
    found = model(**batch, labels=labels, loss_chunk=2)
    expected = model(**batch, labels=labels, logits_to_keep=mask, shift_labels=following)
    assert torch.equal(found.loss, expected.loss) and found.loss.isfinite()
    assert len(found.logits) == len(following) and whole.loss.isfinite()


def test_a_family_may_read_attributes_of_its_head(monkeypatch):
    model, batch, labels = labelled("llama")
    whole = model(**batch, labels=labels).loss
    own = model.own.kind.forward

    def reading(self, *args, **inputs):
        assert self.lm_head.weight.dtype == torch.float32
        return own(self, *args, **inputs)

    monkeypatch.setattr(model.own.kind, "forward", reading)
    torch.testing.assert_close(model(**batch, labels=labels, loss_chunk=2).loss, whole)


def test_autocast_computes_chunks_in_bfloat16():
    torch.manual_seed(0)
    head = nn.Linear(64, 50)
    hidden, labels = torch.randn(40, 64, requires_grad=True), torch.randint(0, 50, (40,))
    types = set()

    def loss_of(part, targets):
        logits = head(part)
        types.add(logits.dtype)
        return functional.cross_entropy(logits.float(), targets, reduction="sum")

    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.autograd.grad(loss_of(hidden, labels), [hidden, head.weight])
        loss = chunked_loss(loss_of, hidden, labels, 7, list(head.parameters()))
    actual = torch.autograd.grad(loss, [hidden, head.weight])
    assert types == {torch.bfloat16}
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


def test_without_gradients_no_chunk_is_kept():
    head = nn.Linear(6, 11)
    hidden, labels = torch.randn(9, 6), torch.randint(0, 11, (9,))

    def loss_of(part, targets):
        assert len(part) <= 4
        return functional.cross_entropy(head(part), targets, reduction="sum")

    with torch.no_grad():
        found = chunked_loss(loss_of, hidden, labels, 4, list(head.parameters()))
    torch.testing.assert_close(
        found, functional.cross_entropy(head(hidden), labels, reduction="sum")
    )
