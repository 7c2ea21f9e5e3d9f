"""The two operations against their definitions in float64."""

import pytest
import torch
from draws import examples
from families import Layouts
from hypothesis import given
from hypothesis import strategies as st

from wings.attention.learner_attention import apply_rope, attend
from wings.attention.learner_mask import LearnerMask
from wings.attention.rotary import RotaryEmbedding, count_heads
from wings.attention.routed_attention import Rule, routed_attention
from wings.attention.token_layout import IMAGE, PADDING, TEXT, TokenLayout

# Tokens per item of three senses.
LENGTHS = (3, 1, 2)


def random_layout(seed, rows=2, longest=9, packed=False):
    """A padded layout `[B, T]` of one to three senses."""
    layouts = Layouts(seed)
    lengths = LENGTHS[: layouts.random.randint(1, 3)]
    flags, positions = [], []
    for _ in range(rows):
        flag, position = [], []
        for _ in range(layouts.random.randint(1, 3) if packed else 1):
            own = []
            for part in layouts.row(longest=longest):
                kind = layouts.random.randint(1, len(lengths)) if part == "image" else TEXT
                own += [kind] * (1 if kind == TEXT else lengths[kind - 1])
            flag += own
            position += range(len(own))
        flags.append(flag)
        positions.append(position)
    width = max(map(len, flags)) + layouts.random.randint(0, 2)
    kinds = torch.full((rows, width), TEXT)
    mask = torch.zeros(rows, width, dtype=torch.long)
    position = torch.zeros(rows, width, dtype=torch.long)
    for row, flag in enumerate(flags):
        start = layouts.random.choice([0, width - len(flag)])
        where = slice(start, start + len(flag))
        kinds[row, where], mask[row, where] = torch.tensor(flag), 1
        position[row, where] = torch.tensor(positions[row])
    return TokenLayout.read(kinds, mask, position if packed else None, lengths)


def visible_by_rule(layout, i, j, row, kind):
    """The rule of mask for one pair, spelled out."""
    position, kinds, segment = layout.position[row], layout.kind[row], layout.segment[row]
    if PADDING in (kinds[i], kinds[j]) or kinds[j] != kind or segment[i] != segment[j]:
        return False
    opens = position[j]
    if kind > TEXT:
        nth = sum(
            int(kinds[k] == kind and segment[k] == segment[j]) for k in range(j)
        ) % LENGTHS[kind - 1]  # fmt: skip
        opens = opens - nth
    return bool(opens <= position[i])


@examples(40)
@given(seed=st.integers(0, 10_000), packed=st.booleans())
def test_layout_says_what_each_token_sees(seed, packed):
    layout = random_layout(seed, packed=packed)
    senses = range(IMAGE, IMAGE + len(layout.begun))
    for kind in (TEXT, *senses):
        keys = layout.padded_where(layout.kind != kind)
        sees = layout.sees(keys)
        for row in range(sees.shape[0]):
            for i in range(sees.shape[1]):
                expected = [visible_by_rule(layout, i, j, row, kind) for j in range(layout.length)]
                assert sees[row, i].tolist() == expected
    for kind in senses:
        has_item = layout.sees(layout.padded_where(layout.kind != kind)).any(-1)
        assert torch.equal(layout.sees_sense(kind), has_item)
    for row, i in (layout.kind != PADDING).nonzero().tolist():
        same = layout.segment[row, : i + 1] == layout.segment[row, i]
        items = [k for k in layout.kind[row, : i + 1][same].tolist() if k > TEXT]
        assert layout.newest[row, i] == (items[-1] if items else TEXT)


def compact(layout, kind):
    order = torch.argsort((layout.kind != kind).long(), dim=1, stable=True)
    order = order[:, : max(1, int((layout.kind == kind).sum(1).max()))]
    keys = layout.gather(order)
    return keys.padded_where(keys.kind != kind)


@pytest.mark.parametrize("path", ["mask", "blocks", "segments"])
@examples(25)
@given(seed=st.integers(0, 10_000), packed=st.booleans(), kind=st.sampled_from([IMAGE, TEXT]))
def test_visible_attention_equals_its_definition(path, seed, packed, kind):
    layout = random_layout(seed, packed=packed)
    keys = compact(layout, kind)
    mask = LearnerMask(layout, keys, continued=False)
    with pytest.MonkeyPatch.context() as patch:
        if path != "mask":
            patch.setattr("wings.attention.learner_mask.BLOCK", 4)
            mask = LearnerMask(layout, keys, continued=path == "blocks")
        torch.manual_seed(seed)
        make = dict(dtype=torch.float64, requires_grad=True)
        rows = layout.table.shape[0]
        q = torch.randn(rows, layout.length, 2, 4, **make)
        k = torch.randn(rows, keys.length, 2, 4, **make)
        v = torch.randn(rows, keys.length, 2, 4, **make)
        last = torch.randn(8, 3, **make)
        # At position 0 a rotation changes nothing.
        rope = RotaryEmbedding(4, 1e4).at(torch.zeros_like(layout.position), torch.float64)
        out = attend(q, k, v, last, mask, rope, None)
        if not out.requires_grad:
            # Nobody sees anything.
            assert not out.any() and not layout.sees(keys).any()
            return
        gradient = torch.randn_like(out)
        found = torch.autograd.grad(out, (q, k, v, last), gradient, materialize_grads=True)
    sees = layout.sees(keys)[:, None]
    scores = torch.einsum("bthd,bshd->bhts", q, k) / 2.0
    # Weights of queries that see nothing are dropped; a softmax over nothing would leave NaN.
    weights = scores.masked_fill(~sees, -1e300).softmax(-1) * sees
    exact = torch.einsum("bhts,bshd->bthd", weights, v).flatten(2) @ last
    torch.testing.assert_close(out, exact)
    for name, ours, own in zip(
        ("q", "k", "v", "last"),
        found,
        torch.autograd.grad(exact, (q, k, v, last), gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, own, msg=lambda text, name=name: f"d{name}: {text}")
    assert not out[~sees.any(-1)[:, 0]].any()
    assert torch.equal(mask.sees_any, sees.any(-1)[:, 0])


@pytest.mark.parametrize("widths", [(8, 8), (16, 8), (6, 10), (5, 3)])
@pytest.mark.parametrize("extra", [{}, {"softcap": 3.0}, {"sinks": True}])
@pytest.mark.parametrize("case", ["causal", "mask", "one", "chunk", "long"])
def test_routed_attention_equals_its_definition(case, extra, widths):
    torch.manual_seed(0)
    batch, heads, groups, columns = 2, 4, 2, 3
    length, size = {"causal": (7, 7), "mask": (7, 7), "one": (1, 9), "chunk": (4, 9),
                    "long": (300, 300)}[case]  # fmt: skip
    make = dict(dtype=torch.float64, requires_grad=True)
    q = torch.randn(batch, heads, length, widths[0], **make)
    k = torch.randn(batch, groups, size, widths[0], **make)
    v = torch.randn(batch, groups, size, widths[1], **make)
    w = torch.randn(batch, size, columns, **make)
    sees = torch.ones(length, size, dtype=torch.bool).tril(size - length)[None, None]
    if case == "mask":
        sees = sees & (torch.rand(batch, 1, length, size) < 0.7)
        sees[..., 0] = True
        # Padding sees nothing: its result is zero, and so is what it adds to gradients.
        sees[0, :, 3] = False
    sinks = torch.randn(heads, dtype=torch.float64) if "sinks" in extra else None
    rule = Rule(sees if case == "mask" else None, 0.3, extra.get("softcap"), sinks)
    out, sums = routed_attention(q, k, v, w, rule)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    if rule.softcap:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores.masked_fill(~sees, -1e300)
    if rule.sinks is not None:
        sink = rule.sinks[None, :, None, None].expand(batch, -1, length, 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    weights = weights * sees
    exact = (weights @ v.repeat_interleave(2, 1)).transpose(1, 2)
    exact_sums = weights.mean(1) @ w
    torch.testing.assert_close(out, exact)
    torch.testing.assert_close(sums, exact_sums)
    if case == "mask":
        assert not out[0, 3].any() and not sums[0, 3].any()
    total, exact_total = (
        out.sin().sum() + sums.cos().sum(),
        exact.sin().sum() + exact_sums.cos().sum(),
    )
    ours, own = (torch.autograd.grad(t, (q, k, v, w)) for t in (total, exact_total))
    for name, a, b in zip("qkvw", ours, own, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"d{name}: {text}")


@given(width=st.integers(1, 200).map(lambda n: 2 * n), wanted=st.integers(1, 40))
def test_heads_divide_the_width_evenly(width, wanted):
    heads = count_heads(width, wanted)
    assert heads <= wanted and width % heads == 0 and (width // heads) % 2 == 0
    assert not any(
        width % n == 0 and width // n % 2 == 0 for n in range(heads + 1, wanted + 1) if n <= width
    )


def test_rotation_depends_on_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(i, j):
        ropes = [RotaryEmbedding(8, 1e4).at(torch.tensor([[p]]), torch.float64) for p in (i, j)]
        return (apply_rope(q, ropes[0]) * apply_rope(k, ropes[1])).sum()

    torch.testing.assert_close(score(7, 3), score(100_007, 100_003))
    assert (score(7, 3) - score(7, 4)).abs() > 1e-6
