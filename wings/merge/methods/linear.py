"""Weighted average of models (model soups, arXiv 2203.05482)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wings.errors import WingsError

from .method import Elementwise, Method, Parameter, Values, moved

# A sum of weights that decimal fractions give may be off by this much.
ROUNDING = 1e-6


class Linear(Method):
    """`sum of weight_i * theta_i`, divided by the sum of the weights unless `normalize` is false.

    The LLM's weight is what the children's leave of 1, if none is given.
    """

    name = "linear"
    parameters = (
        Parameter("weight", is_required=True, per_model=True, least=0.0),
        Parameter("normalize", default=True),
    )

    def validate(self, values: Values) -> None:
        """Raises a `WingsError` for weights without a rest for the LLM, or that are all 0."""
        total = sum(child["weight"] for child in values.children)
        if "weight" not in values.base and total > 1 + ROUNDING:
            raise WingsError(
                f"The children's weights add up to {total:g}, which leaves nothing for the language"
                f" model: give weights up to 1, or use task_arithmetic to go beyond a child."
            )
        if sum(weights_of(values)) <= 0:
            raise WingsError("All weights are 0: give one model a weight above 0.")

    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """As in `Method.prepare`."""
        weights = weights_of(values)
        if values.shared["normalize"]:
            total = sum(weights)
            weights = [weight / total for weight in weights]

        def merge(base: Tensor, children: Sequence[Tensor], part: slice) -> Tensor:
            # A model of weight 0 would still turn a -0 into a 0.
            models = [(w, t) for w, t in zip(weights, [base, *children], strict=True) if w]
            if len(models) == 1 and models[0][0] == 1:
                return models[0][1]
            if len(models) == 2 and models[0][0] + models[1][0] == 1:
                return moved(models[0][1], models[1][1], models[1][0])
            result = torch.zeros_like(base)
            for weight, tensor in models:
                result.add_(tensor, alpha=weight)
            return result

        return merge


def weights_of(values: Values) -> list[float]:
    """The weights of the LLM and of each child."""
    own = [float(child["weight"]) for child in values.children]
    rest = max(0.0, 1 - sum(own))
    rest = 0.0 if rest < ROUNDING else rest
    return [float(values.base.get("weight", rest)), *own]
