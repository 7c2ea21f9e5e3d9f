"""Loss: which places of a batch are asked for the next token, and nothing beside them."""

from torch import Tensor
from torch.nn import functional


def asked(labels: Tensor) -> dict[str, Tensor]:
    """Keywords of the model's forward: logits only where some row is asked for the next token.

    With a large vocabulary the head costs as much as many blocks, and answers are short.

    Args:
        labels: `[B, T]`, -100 where nothing is trained.

    Returns:
        `logits_to_keep` `[C]`, the columns, and `shift_labels` `[B, C]`.
    """
    following = functional.pad(labels[:, 1:], (0, 1), value=-100)
    columns = (following != -100).any(dim=0).nonzero().squeeze(1)
    return {"logits_to_keep": columns, "shift_labels": following[:, columns]}
