"""Names of modules."""

from torch import nn


def prefix_of(child: nn.Module, parent: nn.Module) -> str:
    """Returns the dotted name of `child` in `parent`."""
    return next(name for name, module in parent.named_modules() if module is child)
