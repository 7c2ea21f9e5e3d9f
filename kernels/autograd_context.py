"""`AutogradContext`: the context of an autograd function, with the attributes torch leaves out."""

from torch import Tensor
from torch.autograd.function import FunctionCtx


class AutogradContext(FunctionCtx):
    """Base of the contexts of our autograd functions, for annotations only.

    torch passes a context that has both attributes, but declares them on another class. What a
    function adds itself is declared in a subclass beside it.
    """

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
