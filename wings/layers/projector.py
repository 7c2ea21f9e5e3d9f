"""The projector: from a vision tower's features to the decoder's width."""

from torch import Tensor, nn


class Projector(nn.Module):
    """`mlp2x_gelu`: linear, GELU, linear, as in LLaVA 1.5 and Wings."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.activation = nn.GELU()
        self.second = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """`[N, P, features]` -> `[N, P, D]`."""
        return self.second(self.activation(self.first(features)))
