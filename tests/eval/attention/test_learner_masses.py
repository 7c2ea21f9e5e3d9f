"""Where the learners of a Wings model look, against their definition spelled out."""

import pytest
import torch
from families import Layouts, batch_of, build

from wings.attention.rotary import RotaryEmbedding
from wings.eval.attention.key_kinds import KEY_KINDS, key_kinds
from wings.eval.attention.masses import attention_masses
from wings.layers.wings_layer import WingsLayer


def images_of(model, batch):
    return batch["input_ids"] == model.config.image_token_id


def passed(model, batch):
    """A whole pass: its output, each block's normed input, and the layer-0 embeddings."""
    inputs, rows = {}, []
    hooks = [
        module.register_forward_hook(lambda m, args, out: inputs.update({m.layer: args[0]}))
        for module in model.modules()
        if isinstance(module, WingsLayer)
    ]
    hooks.append(
        model.model.language_model.register_forward_pre_hook(
            lambda m, args, kwargs: rows.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
    )
    with torch.no_grad():
        out = model(**batch, use_cache=False, output_attentions=True, output_router_weights=True)
    for hook in hooks:
        hook.remove()
    return out, inputs, rows[0]


def logits_of(model, batch):
    """Of a pass that returns no attention: measuring leaves nothing on a model that changes it."""
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


def turned(x, position, rotary):
    """Rotary positions of heads `[T, H, d]`, in float64."""
    half = torch.arange(0, rotary.width, 2).double() / rotary.width
    angle = position.double()[:, None] * rotary.base**-half
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def weights_of(learner, x, s, sees, rotary):
    """Head-averaged weights `[T, S]` of a learner in one row, in float64; zero rows where blind."""
    x, s = x.double(), s.double()
    a_q, b_q, a_k, b_k = (
        factor.double() for factor in (learner.a_q, learner.b_q, learner.a_k, learner.b_k)
    )
    position = torch.arange(len(x))
    q, k = x + x @ a_q @ b_q, s + s @ a_k @ b_k
    q, k = (turned(rows.unflatten(-1, (-1, rotary.width)), position, rotary) for rows in (q, k))
    scores = torch.einsum("thd,shd->hts", q, k) / rotary.width**0.5
    weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    return weights.nan_to_num(0.0).mean(0)


def expected_learners(model, batch, out, inputs, embeddings):
    """sum over learners of gate times weights, summed over keys by kind, averaged over tokens."""
    rotary = RotaryEmbedding.of(model.config.hidden_size, model.config.text_config)
    is_image, per = images_of(model, batch), model.config.image_seq_length
    columns = key_kinds(is_image, batch["attention_mask"].bool()).double()
    result = torch.zeros(len(is_image), len(inputs), len(KEY_KINDS), dtype=torch.float64)
    for row, real in enumerate(batch["attention_mask"].bool()):
        image = is_image[row, real]
        slot = torch.arange(len(image))
        # An image is seen whole from its first token on.
        begins = torch.where(image, slot - (image.cumsum(0) - 1) % per, slot)
        for layer, x in inputs.items():
            block = next(
                m for m in model.modules() if isinstance(m, WingsLayer) and m.layer == layer
            )
            for number, name in enumerate(model.config.learners):
                of_kind = image if name == "image" else ~image
                sees = (begins[None] <= slot[:, None]) & of_kind[None]
                weights = weights_of(
                    block.learner(number), x[row, real], embeddings[row, real], sees, rotary
                )
                gates = out.router_weights[layer][row, real, number].double()
                masses = gates[:, None] * (weights @ columns[row, real])
                result[row, layer] += masses.mean(0)
    return result


OPTIONS = [
    {},
    {"router": "modality", "text_guard": True},
    {"router": None},
    {"learners": ("image",), "router": None},
    {"learners": ("text",), "router": None},
    {"router": "attended"},
    {"learners": ("image",), "router": "attended"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_both_branches_are_as_defined(options, side):
    model = build("llama", **options)
    rows = [*Layouts(len(side)).rows(3), ["text", "image", "text", "image", "image", "text"]]
    batch, _ = batch_of(model, rows, side=side)
    out, inputs, embeddings = passed(model, batch)
    before = logits_of(model, batch)
    torch.testing.assert_close(before, out.logits)
    masses = attention_masses(model, batch, images_of(model, batch))
    assert torch.equal(logits_of(model, batch), before)
    tokens = batch["attention_mask"].double()
    tokens = tokens / tokens.sum(1, keepdim=True)
    columns = key_kinds(images_of(model, batch), batch["attention_mask"].bool()).double()
    main = [
        torch.einsum("bhts,bsc,bt->bc", w.double(), columns, tokens) / w.shape[1]
        for w in out.attentions
    ]
    torch.testing.assert_close(masses.main, torch.stack(main, dim=1), atol=1e-6, rtol=1e-5)
    learners = expected_learners(model, batch, out, inputs, embeddings)
    torch.testing.assert_close(masses.learners, learners, atol=1e-5, rtol=1e-4)
    assert masses.effect.shape == learners.shape[:2] and (masses.effect > 0).any()


@pytest.mark.parametrize("family", ["gemma2", "qwen3", "lfm2"])
def test_wings_of_other_families(family):
    """A decoder with soft caps, one with norms in its attention, one whose first block has none."""
    model = build(family)
    batch, _ = batch_of(model, Layouts(3).rows(3))
    plain = model(**batch, use_cache=False, output_attentions=True)
    before = logits_of(model, batch)
    torch.testing.assert_close(before, plain.logits)
    masses = attention_masses(model, batch, images_of(model, batch))
    assert torch.equal(logits_of(model, batch), before)
    tokens = batch["attention_mask"].double()
    columns = key_kinds(images_of(model, batch), tokens.bool()).double()
    tokens = tokens / tokens.sum(1, keepdim=True)
    found = [w for w in plain.attentions if w is not None]
    main = [
        torch.einsum("bhts,bsc,bt->bc", w.double(), columns, tokens) / w.shape[1] for w in found
    ]
    torch.testing.assert_close(masses.main, torch.stack(main, dim=1), atol=1e-6, rtol=1e-5)


def test_gates_that_sum_to_one_add_one_unit_of_looking():
    model = build("llama")
    batch, _ = batch_of(model, [["text", "image", "text"], ["text"] * 4])
    masses = attention_masses(model, batch, images_of(model, batch))
    torch.testing.assert_close(masses.learners.sum(-1), torch.ones(2, 2).double())
    assert masses.learners[1, :, KEY_KINDS.index("image")].max() == 0


def test_fresh_learners_look_and_have_no_effect():
    model = build("llama", awake=False)
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    masses = attention_masses(model, batch, images_of(model, batch))
    assert masses.effect.max() == 0
    assert (masses.learners.sum(-1) > 0.99).all()


def test_a_guarded_row_of_text_and_a_model_without_learners():
    guarded = build("llama", text_guard=True)
    batch, _ = batch_of(guarded, [["text"] * 5])
    masses = attention_masses(guarded, batch, images_of(guarded, batch))
    assert masses.learners.abs().max() == 0 and masses.effect.abs().max() == 0
    plain = build("llama", learners=())
    masses = attention_masses(plain, batch, images_of(plain, batch))
    assert masses.learners is None and masses.effect is None


def test_blocks_without_learners_add_nothing():
    model = build("llama", learner_layers=(1,))
    batch, _ = batch_of(model, [["text", "image", "text"]])
    masses = attention_masses(model, batch, images_of(model, batch))
    assert masses.learners[0, 0].abs().max() == 0 and masses.learners[0, 1].sum() > 0.99


def test_effect_is_the_size_of_the_learners_output():
    model = build("llama", router=None)
    batch, _ = batch_of(model, [["text", "image", "text", "text"]])
    once = attention_masses(model, batch, images_of(model, batch)).effect[0, 0]
    with torch.no_grad():
        for block in (m for m in model.modules() if isinstance(m, WingsLayer)):
            for number in range(len(model.config.learners)):
                block.learner(number).b_o.mul_(3)
    assert attention_masses(model, batch, images_of(model, batch)).effect[0, 0] == pytest.approx(
        3 * float(once), rel=1e-5
    )
