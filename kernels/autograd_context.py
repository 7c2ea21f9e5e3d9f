"""`AutogradContext`: type of the context of an autograd function, for annotations."""

from torch import Tensor
from torch.autograd.function import FunctionCtx


class AutogradContext(FunctionCtx):
    """Declares two attributes that torch sets on contexts but declares on another class.

    Subclasses declare what their function stores on the context.
    """

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
