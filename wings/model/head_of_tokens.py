"""`HeadOfTokens`: an output head that computes logits of chosen tokens only."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class HeadOfTokens:
    """Takes the place of an output head in the code of a family's causal LM.

    With a large vocabulary the head costs as much as many blocks. Few tokens of a batch have a
    label, but nearly every column has one in some row.

    Args:
        head: the output head, `[..., D]` -> `[..., V]`.
        mask: `[B, T]` bool, True for N tokens.
    """

    def __init__(self, head: nn.Module, mask: Tensor) -> None:
        self.head, self.mask = head, mask

    def __call__(self, hidden: Tensor) -> Tensor:
        """`[B, T, D]` -> logits `[1, N, V]`, in reading order."""
        return self.head(hidden[self.mask.to(hidden.device)])[None]

    def __getattr__(self, name: str) -> Any:
        if name == "head":
            raise AttributeError(name)
        return getattr(self.head, name)


def before_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that predict a label, `[B, T]` bool, and those N labels in reading order, `[N]`.

    Args:
        labels: `[B, T]`, -100 where there is none.
    """
    following = functional.pad(labels[:, 1:], (0, 1), value=-100)
    wanted = following != -100
    return wanted, following[wanted]
