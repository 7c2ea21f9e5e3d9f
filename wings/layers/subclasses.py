"""Subclasses made at run time: a mixin put before the class of a decoder's own module."""

from torch import nn

_MADE: dict[tuple[type, type, str], type] = {}


def put_before(mixin: type[nn.Module], own: type[nn.Module], prefix: str) -> type[nn.Module]:
    """Returns the subclass of `own` with `mixin` first, one for each pair and prefix.

    A module of class `own` may take it as its class: no state changes, and none of the decoder's
    code is copied or hooked. An empty prefix keeps the class's name, by which sharding and device
    maps know a decoder's blocks.
    """
    key = mixin, own, prefix
    if key not in _MADE:
        body = {
            "__doc__": own.__doc__,
            # A pickle finds classes by name: it gets the decoder's own class, which has one.
            "__reduce__": lambda module: (empty_instance, key, module.__dict__),
        }
        _MADE[key] = type(f"{prefix}{own.__name__}", (mixin, own), body)
    return _MADE[key]


def take_off(module: nn.Module) -> None:
    """Gives a module the class back that it had before `put_before`."""
    for (_, own, _), made in _MADE.items():
        if type(module) is made:
            module.__class__ = own
            return


def empty_instance(mixin: type[nn.Module], own: type[nn.Module], prefix: str) -> nn.Module:
    """Returns a module of such a class whose state a pickle or a copy fills in."""
    made = put_before(mixin, own, prefix)
    return made.__new__(made)
