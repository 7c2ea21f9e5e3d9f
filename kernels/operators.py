"""`OperatorContext`: what the operators of torch's library keep for their backward."""

from typing import Any

from torch import Tensor
from torch.autograd.function import FunctionCtx


class OperatorContext(FunctionCtx):
    """Declares attributes that torch sets on contexts but declares on another class.

    Attributes:
        numbers: arguments that are no tensors.
    """

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    numbers: tuple[Any, ...]
