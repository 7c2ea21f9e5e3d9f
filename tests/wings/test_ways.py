"""The Triton kernels in a whole model, and the one function that chooses them."""

from types import SimpleNamespace

import pytest
import torch
from families import MAIN, VISION, Layouts, batch_of, text_config

from wings import WingsConfig, WingsError, WingsForCausalLM
from wings.layers.dispatch import KERNEL_DTYPES, choose, working_dtype

# Heads that are wide enough for the kernels.
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
KERNEL_FAMILIES = [family for family in MAIN if family != "gemma2"]
X = torch.ones(1)


def wide_model(family, changes=None, **options):
    torch.manual_seed(0)
    config = WingsConfig(
        text_config=text_config(family, **WIDE | (changes or {})), vision_config=VISION, rank=4,
        router_positions=512, **options,
    )  # fmt: skip
    model = WingsForCausalLM(config)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.3)
    return model


def nothing():
    """No obstacle."""


def labels_of(model, batch):
    """Neither image tokens nor padding, where the ways may differ, have a label."""
    ids = batch["input_ids"]
    hidden = (ids == model.config.image_token_id) | (batch["attention_mask"] == 0)
    return ids.masked_fill(hidden, -100)


ROUTERS = ("position", "modality", "attended", None)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("number", range(len(KERNEL_FAMILIES)))
def test_kernels_change_neither_logits_nor_gradients(number, side):
    """Every family and every router, each padded on both sides."""
    family, router = KERNEL_FAMILIES[number], ROUTERS[(number + side) % len(ROUTERS)]
    model = wide_model(family, router=router)
    layouts = Layouts(number)
    rows = [["text", "image", "text", "text"], layouts.row(most_images=2)]
    batch, _ = batch_of(model, rows, side, side=("left", "right")[side], extra=1)
    batch["labels"] = labels_of(model, batch)
    found = {}
    for way in ("triton", "torch"):
        model.impl = way
        model.zero_grad(set_to_none=True)
        out = model(**batch)
        out.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[way] = out.logits.detach(), grads
    real = batch["attention_mask"].bool()
    (ours, mine), (plain, theirs) = found["triton"], found["torch"]
    torch.testing.assert_close(ours[real], plain[real], atol=2e-5, rtol=1e-4)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(
            mine[name] / scale, gradient / scale, atol=1e-4, rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def test_kernels_keep_packed_sequences_apart():
    model = wide_model("llama").eval()
    _, alone = batch_of(model, [["text", "image", "text"], ["text"] * 3, ["image", "text"]])
    packed = {
        "input_ids": torch.cat([ids for ids, _ in alone], 1),
        "position_ids": torch.cat([torch.arange(ids.shape[1]) for ids, _ in alone])[None],
        "pixel_values": torch.cat([own for _, own in alone if own is not None]),
    }
    model.impl = "triton"
    with torch.no_grad():
        found = model(**packed, use_cache=False).logits
        model.impl = "torch"
        expected = [
            model(input_ids=ids, pixel_values=own, use_cache=False).logits for ids, own in alone
        ]
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=2e-5, rtol=1e-4)


def test_kernels_fill_a_cache_that_decoding_reads():
    model = wide_model("llama").eval()
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 4], side="left")
    options = dict(do_sample=False, max_new_tokens=5, pad_token_id=0, eos_token_id=None)
    expected = model.generate(**batch, **options)
    model.impl = "triton"
    assert torch.equal(model.generate(**batch, **options), expected)
    static = model.generate(**batch, **options, cache_implementation="static")
    assert torch.equal(static, expected)


def test_ten_steps_of_training_lose_the_same():
    """A tiny model trained with and without the kernels: every loss."""
    losses = {}
    for way in ("triton", "torch"):
        one_block = {"num_hidden_layers": 1, "num_key_value_heads": 1}
        model = wide_model("llama", one_block).train()
        model.impl = way
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses[way] = []
        for step in range(10):
            batch, _ = batch_of(model, [["text", "image", "text", "text"]], seed=step % 2)
            loss = model(**batch, labels=labels_of(model, batch)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[way].append(float(loss.detach()))
    assert losses["torch"][-1] < 0.5 * losses["torch"][0]
    torch.testing.assert_close(losses["triton"], losses["torch"], atol=0, rtol=2e-3)


def test_auto_is_torch_without_a_gpu():
    assert choose("auto", X, nothing) == "torch"
    assert choose("triton", X, nothing) == "triton"
    assert choose("torch", X, nothing) == "torch"


def test_a_gpu_computes_float32_in_torch_unless_it_is_told():
    gpu = torch.device("cuda")
    found = {
        kind: choose("auto", SimpleNamespace(device=gpu, dtype=kind), nothing)
        for kind in KERNEL_DTYPES
    }
    assert found == {
        torch.float16: "triton", torch.bfloat16: "triton", torch.float32: "torch",
    }  # fmt: skip
    assert choose("triton", SimpleNamespace(device=gpu, dtype=torch.float32), nothing) == "triton"
    # Products under autocast are in half precision, whatever comes in.
    assert working_dtype(X) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert working_dtype(X) == torch.bfloat16


def test_obstacles_are_looked_for_only_where_a_kernel_may_run():
    def asked():
        raise AssertionError("asked")

    assert choose("auto", X, asked) == choose("torch", X, asked) == "torch"
    with pytest.raises(AssertionError, match="asked"):
        choose("triton", X, asked)


def test_the_environment_goes_first(monkeypatch):
    monkeypatch.setenv("WINGS_KERNELS", "torch")
    assert choose("triton", X, nothing) == "torch"
    monkeypatch.setenv("WINGS_KERNELS", "cuda")
    with pytest.raises(WingsError, match="'cuda', but must be 'auto', 'triton' or 'torch'"):
        choose("auto", X, nothing)


def test_an_explicit_request_never_falls_back(monkeypatch):
    with pytest.raises(WingsError, match="but the moon is full"):
        choose("triton", X, lambda: "the moon is full")
    assert choose("auto", X, lambda: "the moon is full") == "torch"
    monkeypatch.setattr("wings.layers.dispatch.HAS_TRITON", False)
    with pytest.raises(WingsError, match="triton is not installed"):
        choose("triton", X, nothing)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [("gemma2", WIDE, "a soft cap"), ("llama", {}, "heads are 8 wide")],
)
def test_what_kernels_cannot_do_is_named(family, changes, reason):
    config = WingsConfig(text_config=text_config(family, **changes), vision_config=VISION, rank=4)
    model = WingsForCausalLM(config).eval()
    batch, _ = batch_of(model, [["text", "image", "text"]])
    model.impl = "triton"
    with pytest.raises(WingsError, match=reason):
        model(**batch)
    with pytest.raises(WingsError, match="'fast', but must be"):
        model.impl = "fast"


def test_kernels_follow_autocast():
    model = wide_model("llama").train()
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    losses = {}
    for way in ("triton", "torch"):
        model.impl = way
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, labels=labels_of(model, batch)).loss
        loss.backward()
        losses[way] = float(loss.detach())
    assert losses["triton"] == pytest.approx(losses["torch"], rel=2e-2)


def test_a_decoder_with_masks_of_its_own_is_causal_without_one(monkeypatch):
    model = wide_model("llama").eval()
    batch, _ = batch_of(model, [["text", "image", "text"]])
    given = {name: batch[name] for name in ("input_ids", "pixel_values")}
    monkeypatch.setattr(model.model, "_plain_masks", False)
    with torch.no_grad():
        model.impl = "triton"
        found = model(**given, use_cache=False).logits
        model.impl = "torch"
        expected = model(**given, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
