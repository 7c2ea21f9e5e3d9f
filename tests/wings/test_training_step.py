"""What training relies on: gradients and their memory, checkpointing, precision, ranks."""

import copy
from functools import partial

import pytest
import torch
from families import VISION, Layouts, batch_of, build, text_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from wings import WingsConfig, WingsError, WingsForCausalLM
from wings.attention.learner_attention import apply_rope
from wings.attention.rotary import CosSin
from wings.attention.routed_attention import segmented_attention
from wings.upstream.weights import checkpoint_blocks

FAMILIES = ["llama", "gemma2", "gemma3_text", "qwen3"]


def gradients(model, batch, **more):
    model.zero_grad(set_to_none=True)
    labels = batch["input_ids"].masked_fill(
        (batch["attention_mask"] == 0) | (batch["input_ids"] == model.config.image_token_id), -100
    )
    loss = model(**batch, labels=labels, **more).loss
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def total(model, batch):
    """A loss in float64; transformers' own is computed in float32."""
    real = batch["attention_mask"].bool()
    return model(**batch, use_cache=False).logits[real].logsumexp(-1).sum()


def fresh(family="llama", seed=0, blocks=2, **options):
    options.setdefault("rank", 4)
    torch.manual_seed(seed)
    text = text_config(family, num_hidden_layers=blocks)
    config = WingsConfig(text_config=text, vision_config=VISION, **options)
    model = WingsForCausalLM(config)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.2)
    return model.train()


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_learner_has_the_gradient_of_finite_differences(family, router):
    model = fresh(family, router=router).double()
    batch, _ = batch_of(model, [["text", "image", "text", "text", "image", "text"]])
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    total(model, batch).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if ".wings." not in name and "projector" not in name:
            continue
        # Uphill, where the slope is largest against the rounding of norms in float32.
        direction = found[name] / found[name].norm().clamp(min=1e-12)
        losses = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                parameter += step * direction
                losses.append(total(model, batch))
                parameter -= step * direction
        slope = (losses[0] - losses[1]) / 2e-3
        assert (found[name] * direction).sum().item() == pytest.approx(
            slope.item(), rel=1e-2, abs=1e-3
        ), name


def packed(model, rows):
    """All rows as one, without padding."""
    _, alone = batch_of(model, rows)
    ids = torch.cat([ids for ids, _ in alone], dim=1)
    return {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(ids.shape[1]) for ids, _ in alone])[None],
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.cat([pictures for _, pictures in alone if pictures is not None]),
    }


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_long_rows_train_as_short_ones(family, router, layout):
    """The parts that long rows are cut into give the loss and gradients of the masked way."""
    model = fresh(family, router=router, router_positions=512)
    rows = [["text"] * 20 + ["image"] + ["text"] * 30, ["text"] * 9 + ["image"]]
    batch = packed(model, rows) if layout == "packed" else batch_of(model, rows, side=layout)[0]
    loss, exact = gradients(model, batch)
    calls = []

    def seen(*args):
        calls.append(args)
        return segmented_attention(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wings.attention.learner_mask.BLOCK", 8)
        patch.setattr("wings.attention.routed_attention.BLOCK", 8)
        patch.setattr("wings.kernels.segments.LONGEST", 8)
        patch.setattr("wings.attention.routed_attention.segmented_attention", seen)
        long_loss, found = gradients(model, batch)
    assert len(calls) == (2 if router else 0)
    torch.testing.assert_close(long_loss, loss)
    for name in exact:
        torch.testing.assert_close(
            found[name], exact[name], atol=1e-5, rtol=1e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(family):
    model = fresh(family)
    batch, _ = batch_of(model, Layouts(4).rows(3))
    loss, plain = gradients(model, batch)
    checkpoint_blocks(model, True)
    other, again = gradients(model, batch)
    torch.testing.assert_close(other, loss)
    assert plain.keys() == again.keys()
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], atol=1e-5, rtol=1e-3)


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(WingsError, match="use_reentrant"):
        fresh()._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_guard": True},
        {"learners": ("image",)},
        {"router": "attended"},
        {"learners": ("image",), "router": "attended"},
        {"learners": ("image",), "router": "attended", "text_guard": True},
    ],
)
def test_batches_without_pictures_define_every_gradient(options):
    """No process of a distributed run may lack a gradient that another one has."""
    model = fresh(**options)
    for part in ("vision_tower",):
        assert not any(p.requires_grad for p in model.model.get_submodule(part).parameters())
    text, _ = batch_of(model, [["text"] * 5, ["text"] * 3])
    mixed, _ = batch_of(model, [["text", "image", "text"], ["text"] * 3])
    _, with_pictures = gradients(model, mixed)
    _, without = gradients(model, text)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert with_pictures.keys() == without.keys() == trained
    assert not any(without[name].any() for name in without if "projector" in name)


@pytest.mark.parametrize("router", ["position", "modality", "attended", None])
def test_autocast_trains(router):
    model = fresh(router=router)
    batch, _ = batch_of(model, Layouts(4).rows(3))
    exact, own = gradients(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, found = gradients(model, batch)
    assert abs(loss - exact) < 0.05 * exact
    assert found.keys() == own.keys()
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_types_run(family, dtype):
    model = copy.deepcopy(build(family)).to(dtype)
    batch, _ = batch_of(model, Layouts(4).rows(3))
    with torch.no_grad():
        exact, own = (build(family)(**batch).logits, model(**batch).logits)
    assert own.dtype == dtype
    real = batch["attention_mask"].bool()
    assert (own[real].double() - exact[real].double()).abs().mean() < 0.1 * exact[real].std()


class LargestTensor(TorchDispatchMode):
    """The most elements that any tensor of the run has; a mask of one byte is none."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bool:
                self.size = max(self.size, tensor.numel())
        return out


def bytes_kept(model, length, layout):
    """What autograd keeps of a pass; no tensor of numbers may reach length x length."""
    row = ["text"] * (length - 4 * 8 - 9) + ["image"] * 8 + ["text"] * 9
    if layout == "packed":
        batch = packed(model, [row[: length // 3], row[length // 3 :]])
    else:
        rows = [row, row[length // 4 :]] if layout == "left" else [row]
        batch, _ = batch_of(model, rows, side="left")
    if layout in ("plain", "window"):
        del batch["attention_mask"]
    storages, largest = {}, LargestTensor()

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = batch["input_ids"] % 90
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), largest:
        model(**batch, labels=labels)
    assert largest.size < length * length
    return sum(storages.values())


@pytest.mark.parametrize(
    ("layout", "router"),
    [
        ("plain", "position"),
        ("plain", "modality"),
        ("plain", "attended"),
        ("plain", None),
        ("left", "position"),
        ("packed", "modality"),
        ("window", "attended"),
    ],
)
def test_no_matrix_of_weights_is_stored(layout, router):
    """Training memory grows linearly: what autograd keeps at twice the length is at most twice."""
    model = fresh(
        "mistral" if layout == "window" else "llama", router=router, router_positions=4096
    )
    kept = [bytes_kept(model, length, layout) for length in (1024, 2048)]
    assert kept[1] < 2.2 * kept[0]


def test_attentions_on_request_are_the_decoders():
    model = build("llama", awake=False)
    batch, _ = batch_of(model, [["text"] * 7])
    bare = model.extract_language_model()
    bare.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**batch, output_attentions=True).attentions
        own = bare(**batch, output_attentions=True).attentions
    assert len(found) == len(own) == 2
    for a, b in zip(found, own, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_router_weights_sum_to_one_over_what_is_visible():
    model = build("llama")
    batch, _ = batch_of(model, [["image", "text", "text"], ["text", "image", "text"]], side="left")
    with torch.no_grad():
        weights = model(**batch, output_router_weights=True).router_weights
    assert len(weights) == 2 and weights[0].shape == (2, batch["input_ids"].shape[1], 2)
    torch.testing.assert_close(weights[1].sum(-1), torch.ones(weights[1].shape[:2]))
    # Row 0 opens with a picture: its tokens see no text yet. Row 1 opens with text alone.
    assert weights[0][0, 0].tolist() == [1.0, 0.0] and weights[0][1, 0].tolist() == [0.0, 1.0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointed_blocks_keep_nothing_of_learners():
    model = build("llama").train()
    assert not model.model.checkpoints_blocks
    checkpoint_blocks(model, True)
    assert model.model.checkpoints_blocks
    checkpoint_blocks(model, False)
    assert not model.model.checkpoints_blocks
    model.eval()


def test_keys_and_values_are_made_again_for_the_backward(monkeypatch):
    """With the same gradients as if they had been kept."""
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 4])
    found = {}
    for checkpoints in (False, True):
        # The flag alone: nothing else changes.
        monkeypatch.setattr(model.model, "checkpoints_blocks", checkpoints)
        model.zero_grad(set_to_none=True)
        loss = model(**batch, labels=batch["input_ids"] % 96, use_cache=False).loss
        loss.backward()
        found[checkpoints] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[True].items():
        assert torch.equal(gradient, found[False][name]), name


def test_autocast_trains_to_nearly_the_same_gradients():
    """Keys that a backward makes again have the dtype that its forward had."""
    model = build("llama").train()
    batch, _ = batch_of(model, [["text", "image", "text", "text"], ["text"] * 4])
    found = {}
    for wanted in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            loss = model(**batch, labels=batch["input_ids"] % 96).loss
        loss.backward()
        found[wanted] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    model.eval()
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[False].items():
        if ".wings." in name and float(gradient.norm()) > 1e-4:
            cosine = torch.cosine_similarity(gradient.flatten(), found[True][name].flatten(), 0)
            assert cosine > 0.98, f"{name}: {cosine}"


def test_keys_of_a_single_source_token_are_recomputed_under_autocast():
    """A tower of one feature an image: such keys are rotated by one product, also in a backward."""
    source = torch.randn(1, 1, 2, 8)
    rope = CosSin.of(torch.randn(1, 1, 8))
    found = {}
    for wanted in (False, True):
        heads = source.to(torch.bfloat16 if wanted else torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            forward = apply_rope(heads, rope)
        # A backward runs outside of autocast.
        assert torch.equal(apply_rope(heads, rope), forward)
        found[wanted] = forward.float()
    assert torch.allclose(found[True], found[False], atol=0.05, rtol=0.05)


def test_a_compiled_model_has_the_same_loss_and_gradients():
    # Compiling a block takes long; test_without_wings.py compiles two.
    model = fresh(text_guard=True, blocks=1)
    compiled = torch.compile(model, backend="eager", dynamic=True)
    try:
        # Two layouts: what was compiled for the first must not be taken for the second. Both have
        # two rows and two images, as torch compiles anew for the first size that is not 1.
        first = [["text", "image", "text"], ["image", "text"]]
        for rows in (first, [["text"] * 4, ["image", "text", "image"]]):
            batch, _ = batch_of(model, rows)
            loss, expected = gradients(model, batch)
            again, found = gradients(compiled, batch)
            assert torch.allclose(again, loss, atol=1e-5)
            assert {name.removeprefix("_orig_mod.") for name in found} == set(expected)
            for name, gradient in found.items():
                same = expected[name.removeprefix("_orig_mod.")]
                assert torch.allclose(gradient, same, atol=1e-5), name
    finally:
        torch._dynamo.reset()


def test_a_pass_without_images_runs_no_tower_and_still_reaches_the_projector():
    """Where weights are sharded the tower runs: the runs in two processes would wait for it."""
    model = fresh(router="attended", text_guard=True)
    called = []
    model.model.vision_tower.register_forward_hook(lambda *_: called.append(1))
    batch, _ = batch_of(model, [["text", "text"]])
    batch = {name: value for name, value in batch.items() if name != "pixel_values"}
    _, found = gradients(model, batch)
    assert not called
    expected = {n for n, _ in model.named_parameters() if n.startswith("model.projector")}
    assert expected <= found.keys() and not any(found[name].any() for name in expected)
