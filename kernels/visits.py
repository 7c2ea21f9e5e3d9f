"""The key ranges as the tensors that an operation's kernels read."""

from torch import Tensor

from .key_ranges import KeyRanges
from .tuning import Kind, blocks_for, for_few_keys


def visits(
    key_ranges: KeyRanges,
    operation: str,
    kind: Kind,
    with_backward: bool,
    columns: int | None = None,
) -> list[Tensor]:
    """The ranges, and the blocks that the operation's kernels visit.

    Args:
        key_ranges: of the queries.
        operation: name of its forward kernel in the table of blocks.
        kind: of its tensors.
        with_backward: whether the backward's kernels may run.
        columns: as in `for_few_keys`, for the backward's kernel over keys; None if it has the
            blocks of the table.

    Returns:
        int32 tensors: first and end `[B or 1, T]`, and spans as in `KeyRanges.block_spans`. The
        forward kernel has those of each block of queries. A backward adds those of its kernel over
        queries, and those of each block of keys.
    """
    found = [key_ranges.first, key_ranges.end]
    names = (operation, f"{operation}_dq", f"{operation}_dkv")
    for number, name in enumerate(names if with_backward else names[:1]):
        blocks = blocks_for(name, *kind)
        if number == 2 and columns is not None:
            blocks = for_few_keys(blocks, key_ranges.count, columns, kind.device)
        found.append(key_ranges.block_spans(blocks.queries, blocks.keys)[number == 2])
    return found
