"""Rules by which the learners of several senses share a token that can see items of each."""

import torch
from torch import Tensor

from wings.attention.token_layout import TEXT, TokenLayout


def constant_shares(rule: str, queries: TokenLayout, kinds: list[int]) -> list[Tensor] | None:
    """The factor of each sense's weights, `[B, T]` float32, where it needs no attention.

    It is 1 for a token that sees items of one sense alone, so a row with one sense is computed as
    by a model with that sense alone.

    Args:
        rule: `"mean"`, 1 over the number of senses that the token sees; `"newest"`, 1 for the sense
            whose item began last and 0 for others; None is returned for others.
        queries: layout of the tokens.
        kinds: of the senses that act, see `TokenLayout`.
    """
    if rule == "mean":
        sees = torch.stack([queries.sees_sense(kind) for kind in kinds]).float()
        share = 1.0 / sees.sum(0).clamp(min=1.0)
        return [share] * len(kinds)
    if rule == "newest":
        newest = queries.newest
        return [((newest == kind) | (newest == TEXT)).float() for kind in kinds]
    return None


def attended_shares(masses: Tensor) -> Tensor:
    """mass_s / (sum of all masses), the factor of each sense's weights; 1 where all are zero.

    Args:
        masses: the main attention's mass on the tokens of each sense that acts, `[B, T, K]`.

    Returns:
        `[B, T, K]`, float32; exactly 1 for a token that attends to one sense alone.
    """
    masses = masses.float()
    total = masses.sum(-1, keepdim=True)
    return torch.where(total > 0, masses / total.where(total > 0, 1.0), 1.0)
