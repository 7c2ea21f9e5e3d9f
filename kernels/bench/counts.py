"""Counts what a call runs: operations that launch a kernel, and bytes that they read and write."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .setting import Shape

# Views run nothing; `promote_types` and `sym_size` only ask.
VIEWS = {
    "view", "_unsafe_view", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze",
    "expand", "t", "unbind", "split", "split_with_sizes", "detach", "alias", "as_strided",
    "narrow", "lift_fresh", "_reshape_alias", "promote_types", "sym_size",
}  # fmt: skip
# Kernels that one of our operators launches.
KERNELS = {"routed_decode": 2, "lorra_decode": 3}
# These read as many rows of their first tensor as they write, and not all of it.
LOOKUPS = {"embedding", "index_select", "gather", "index"}


@dataclass
class Counts:
    """Launches and bytes of one call by the name of the operation.

    A tensor that an operation reads or writes counts once for it, without repeats of a view.
    Caches, and what a kernel keeps between its launches, do not count.
    """

    launches: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)


class CountingMode(TorchDispatchMode):
    """Fills `counts` while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        if name not in VIEWS:
            self.counts.launches[name] += KERNELS.get(name, 1)
            given = tree_leaves((args, kwargs or {}, out))
            found = {_key(leaf): leaf for leaf in given if isinstance(leaf, Tensor)}
            sizes = [size_of(leaf) for leaf in found.values()]
            if name in LOOKUPS:
                sizes[0] = size_of(out)
            self.counts.bytes[name] += sum(sizes)
        return out


def count(call: Callable[[], object]) -> Counts:
    """The launches and bytes of one call."""
    with CountingMode() as mode:
        call()
    return mode.counts


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor, those that a view repeats once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride or not size else 1
    return numbers * tensor.element_size()


def decode_floor(shape: Shape, context: int, itemsize: int) -> int:
    """Fewest bytes that both learners of all blocks read for one token.

    Each block reads the source tokens with their two products once, cos and sin of their positions,
    and the factors: of the image learner all but the two for new image tokens.
    """
    factors = (8 + 6) * shape.rank * shape.width
    row = shape.width + 2 * shape.rank + shape.head_width
    keys = sum(keys for keys, _ in shape.learner_sizes(context + 1))
    return shape.decoding_layers * (factors + keys * row) * itemsize


def _key(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
