"""Task arithmetic (arXiv 2212.04089), with the largest moves only and with either sign."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wings.errors import WingsError

from .largest_moves import largest_moves
from .method import Elementwise, Method, Parameter, Values, moved


class TaskArithmetic(Method):
    """`start + lambda * sum of weight_i * largest(theta_i - base)`.

    `start` is the LLM, or the one child: then a weight below 0 takes its largest moves back, and
    one above 0 is the form that arXiv 2412.03467 prints. `density` is the share of a child's moves
    that count. With `normalize` the sum is divided by that of the weights.
    """

    name = "task_arithmetic"
    parameters = (
        Parameter("weight", is_required=True, per_model=True),
        Parameter("density", per_model=True, least=0.0, most=1.0),
        Parameter("start", default="base", choices=("base", "child")),
        Parameter("normalize", default=False),
        Parameter("lambda"),
    )

    def validate(self, values: Values) -> None:
        """Raises a `WingsError` for several children to start from."""
        if values.shared["start"] == "child" and len(values.children) > 1:
            raise WingsError("start is 'child', but there are several: name one child only.")

    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """As in `Method.prepare`."""
        weights = [float(child["weight"]) for child in values.children]
        total = sum(weights) if values.shared["normalize"] else 1.0
        factor = values.shared["lambda"] / (1.0 if abs(total) < 1e-8 else total)
        weights = [weight * factor for weight in weights]
        masks = [
            largest_moves(base, child, one["density"]) if weight else None
            for child, one, weight in zip(children, values.children, weights, strict=True)
        ]
        from_child = values.shared["start"] == "child"

        def merge(base: Tensor, children: Sequence[Tensor], part: slice) -> Tensor:
            start = children[0] if from_child else base
            used = [i for i, weight in enumerate(weights) if weight]
            if len(used) == 1:
                (i,) = used
                child, weight = children[i], weights[i]
                end = moved(child, base, -weight) if from_child else moved(base, child, weight)
                mask = masks[i]
                return end if mask is None else torch.where(mask[part], end, start)
            result = start.clone()
            for i in used:
                move = (children[i] - base).mul_(weights[i])
                mask = masks[i]
                result += move if mask is None else move.mul_(mask[part])
            return result

        return merge
