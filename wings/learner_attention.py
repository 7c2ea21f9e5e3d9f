"""A learner's attention in plain torch: of a whole text, and of one token while decoding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Layout
from .rotary import Rotation
from .visible_attention import Visibility


@dataclass
class Source:
    """The rows of one modality that a pass can see.

    keys: their layout, `[B, S]`. rows: `[B, S, D]`. rotation: of their positions. visibility: which
    of them each token of the pass sees. turned: `[B, S, H, d]`, the rows turned by their rotation,
    made where a single token asks for them in every block.
    """

    keys: Layout
    rows: Tensor
    rotation: Rotation
    visibility: Visibility
    turned: Tensor | None = None

    def of(self, dtype: torch.dtype) -> "Source":
        """The same rows in the dtype in which a block computes."""
        if self.rows.dtype == dtype:
            return self
        turned = None if self.turned is None else self.turned.to(dtype)
        turns = Rotation(self.rotation.table.to(dtype))
        return Source(self.keys, self.rows.to(dtype), turns, self.visibility, turned)

    def to(self, device: torch.device) -> "Source":
        """A copy on `device`."""
        turned = None if self.turned is None else self.turned.to(device)
        return Source(
            self.keys.to(device), self.rows.to(device), self.rotation.to(device),
            self.visibility.to(device), turned,
        )  # fmt: skip


def learner_attention(
    x: Tensor,
    inner: Tensor,
    source: Source,
    small: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    rotation: Rotation,
) -> Tensor:
    r"""softmax(rope(Q) rope(K)^T / sqrt(d)) V A_o under the rule of visibility.

    Q = x + (x A_q) B_q, K = s + (s A_k) B_k, V = s + (s A_v) B_v (Wings, section 3.2).

    Args:
        x: the block's normed input, `[B, T, D]`.
        inner: x A_q, `[B, T, r]`.
        source: the modality's rows s, `[B, S, D]`, and what goes with them.
        small: s [A_k | A_v], `[B, S, 2 r]`.
        factors: B_q, B_k, B_v `[r, D]` and A_o `[D, r]`.
        heads: H.
        rotation: of the positions of the T tokens.

    Returns:
        `[B, T, r]`, what B_o is applied to; exact zeros for tokens that see no row.
    """
    if source.turned is not None:
        return one_token(x, inner, source, small, factors, heads, rotation)
    b_q, b_k, b_v, a_o = factors
    key_part, value_part = small.chunk(2, dim=-1)
    q = rotation(expanded(x, inner, b_q, heads))
    k = source.rotation(expanded(source.rows, key_part, b_k, heads))
    v = expanded(source.rows, value_part, b_v, heads)
    return source.visibility.attend(q, k, v, a_o)


def expanded(rows: Tensor, inner: Tensor, outer: Tensor, heads: int) -> Tensor:
    """rows + inner outer, as heads: `[B, S, D]`, `[B, S, r]`, `[r, D]` -> `[B, S, H, d]`."""
    whole = torch.addmm(rows.flatten(0, 1), inner.flatten(0, 1), outer)
    return whole.view(*rows.shape[:2], heads, -1)


def one_token(
    x: Tensor,
    inner: Tensor,
    source: Source,
    small: Tensor,
    factors: tuple[Tensor, Tensor, Tensor, Tensor],
    heads: int,
    rotation: Rotation,
) -> Tensor:
    """`learner_attention` for T = 1, in which no key or value is made whole.

    With g = rope(q) and key c_j B_k turned by its position, a head's low-rank score is
    c_j (B_k^1 g^1 + B_k^2 g^2) cos_j + c_j (B_k^1 g^2 - B_k^2 g^1) sin_j summed over the pairs
    (1, 2) that rope turns; values are weighed first and expanded afterwards.
    """
    b_q, b_k, b_v, a_o = factors
    batch, _, width = x.shape
    size, rank = small.shape[1], b_k.shape[0]
    key_part, value_part = small.chunk(2, dim=-1)
    g = rotation(expanded(x, inner, b_q, heads)).transpose(1, 2)
    rows = source.rows.unflatten(-1, (heads, -1)).transpose(1, 2)

    first, second = b_k.view(rank, heads, 2, -1).unbind(2)
    g_first, g_second = g.view(batch, 1, heads, 2, -1).unbind(3)
    folded = torch.cat(
        [first * g_first + second * g_second, first * g_second - second * g_first], dim=-1
    )
    spread = torch.bmm(key_part, folded.view(batch, rank, width))
    # One row of cos and sin per key, shared by its heads.
    low = spread.view(batch * size, heads, -1) @ source.rotation.table.reshape(batch * size, -1, 1)
    scores = g @ source.turned.permute(0, 2, 3, 1)
    scores = scores[:, :, 0] + low.view(batch, size, heads).transpose(1, 2)

    mask = source.visibility.mask
    blind = ~mask.any(-1, keepdim=True)
    scores = (scores * (width // heads) ** -0.5).masked_fill(~(mask | blind), -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(rows.dtype).masked_fill(blind, 0.0)
    seen = weights @ value_part
    low_values = torch.einsum("bhr,rhd->bhd", seen, b_v.view(rank, heads, -1))
    out = (weights[:, :, None] @ rows)[:, :, 0] + low_values
    return out.view(batch, 1, width) @ a_o
