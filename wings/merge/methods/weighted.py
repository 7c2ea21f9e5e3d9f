"""The weighted merge of arXiv 2506.01872: the children that moved most weigh most."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..chunks import chunks, compute_dtype
from .method import Elementwise, Method, Parameter, Values, moved


class Weighted(Method):
    """`a0 * base + (1 - a0) * sum of alpha_i * theta_i`, tensor by tensor.

    `alpha = softmax(temperature * mean |theta_i - base|)`. The defaults are those of the paper's
    code. With one child it is linear interpolation.
    """

    name = "weighted"
    parameters = (
        Parameter("a0", default=0.5, least=0.0, most=1.0),
        Parameter("temperature", default=1000.0, least=0.0),
    )

    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """As in `Method.prepare`."""
        shifts = torch.tensor([mean_move(base, child) for child in children], dtype=torch.float64)
        alphas = torch.softmax(shifts * values.shared["temperature"], 0).tolist()
        own = float(values.shared["a0"])

        def merge(base: Tensor, children: Sequence[Tensor], part: slice) -> Tensor:
            mixed = children[0]
            if len(children) > 1:
                mixed = torch.zeros_like(base)
                for alpha, child in zip(alphas, children, strict=True):
                    mixed.add_(child, alpha=alpha)
            return moved(mixed, base, own)

        return merge


def mean_move(base: Tensor, child: Tensor) -> float:
    """The mean of |child - base| over all elements, in float64."""
    before, after, dtype = base.reshape(-1), child.reshape(-1), compute_dtype([base, child])
    total = 0.0
    for part in chunks(before.numel()):
        total += float((after[part].to(dtype) - before[part].to(dtype)).abs_().double().sum())
    return total / max(before.numel(), 1)
