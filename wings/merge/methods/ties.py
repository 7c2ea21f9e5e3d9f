"""TIES: the largest moves of each child, where most of them agree on the sign."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .largest_moves import largest_moves
from .method import Elementwise, Method, Parameter, Values, moved


class Ties(Method):
    """`base + lambda * mean of the moves that have the elected sign` (arXiv 2306.01708).

    Each child keeps the share `density` of its largest moves. The sign of an element is that of the
    weighted sum of the moves. The mean is weighted; without `normalize` it is a sum, so with one
    child the weight has an effect only then.
    """

    name = "ties"
    parameters = (
        Parameter("weight", is_required=True, per_model=True),
        Parameter("density", per_model=True, least=0.0, most=1.0),
        Parameter("normalize", default=True),
        Parameter("lambda"),
    )

    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """As in `Method.prepare`."""
        weights = [float(child["weight"]) for child in values.children]
        masks = [
            largest_moves(base, child, one["density"])
            for child, one in zip(children, values.children, strict=True)
        ]
        normalize, scale = values.shared["normalize"], float(values.shared["lambda"])

        def one_child(base: Tensor, child: Tensor, part: slice) -> Tensor:
            if weights[0] == 0:
                return base
            end = moved(base, child, scale if normalize else scale * weights[0])
            mask = masks[0]
            return end if mask is None else torch.where(mask[part], end, base)

        def merge(base: Tensor, children: Sequence[Tensor], part: slice) -> Tensor:
            if len(children) == 1:
                return one_child(base, children[0], part)
            moves = []
            for child, weight, mask in zip(children, weights, masks, strict=True):
                move = (child - base).mul_(weight)
                moves.append(move if mask is None else move.mul_(mask[part]))
            elected = torch.where(sum(moves, torch.zeros_like(base)) >= 0, 1.0, -1.0)
            total, divisor = torch.zeros_like(base), torch.zeros_like(base)
            for move, weight in zip(moves, weights, strict=True):
                agrees = move.sign() == elected
                total += move.mul_(agrees)
                divisor.add_(agrees, alpha=weight)
            if normalize:
                total /= divisor.masked_fill_(divisor == 0, 1.0)
            return base + total.mul_(scale)

        return merge
