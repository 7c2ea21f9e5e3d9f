"""Floors: the fewest operations and bytes that an operation needs, and the speed of the machine.

Counts multiplications and additions of matrix products, two for each pair. Exponentials are not
counted, although they have a unit and a limit of their own. Every input is read once and every
output written once. `pairs` is the number of visible (query, key) pairs in one row of the batch:
T (T + 1) / 2 for causal attention over T tokens.
"""

from dataclasses import dataclass

import torch

from .measure import Clock
from .setting import COLUMNS, Shape, causal_pairs

# Bytes copied per byte of the matrices, so that no cache holds them.
COPIED = 4


@dataclass(frozen=True)
class Ceilings:
    """Operations of matrix products and bytes moved, per second."""

    operations: float
    bytes: float


def measure_ceilings(clock: Clock, dtype: torch.dtype, edge: int) -> Ceilings:
    """Times a large matrix product and a large copy in the dtype of the run; the fastest round.

    A copy counts the bytes that it reads and those that it writes.
    """
    a, b = (torch.randn(edge, edge, device=clock.device).to(dtype) for _ in range(2))
    source = torch.randn(COPIED * edge, edge, device=clock.device).to(dtype)
    target = torch.empty_like(source)
    timings = clock.device_only(
        {"product": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)}
    )
    moved = 2 * source.numel() * source.element_size()
    product, copy = (min(timings[name].seconds) for name in ("product", "copy"))
    return Ceilings(2 * edge**3 / product, moved / copy)


@dataclass(frozen=True)
class Work:
    """Operations to do and bytes to move."""

    operations: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds: the longer of arithmetic and memory traffic."""
        return max(self.operations / ceilings.operations, self.bytes / ceilings.bytes)


@dataclass(frozen=True)
class Attended:
    """B rows of T queries that see `pairs` of S keys, in elements of `size` bytes."""

    batch: int
    queries: int
    keys: int
    pairs: int
    size: int


@dataclass(frozen=True)
class Speeds:
    """Fractions of a card's peak: matrix products, the bare LLM's attention, our two operations."""

    matrix: float = 1.0
    bare: float = 1.0
    ours: float = 1.0


EVEN = Speeds()


def routed_attention(
    at: Attended, heads: int, groups: int, width: int, columns: int
) -> tuple[Work, Work]:
    """Forward and backward of routed attention.

    The forward computes q k^T, P v and P w. It reads q, k, v and w, and writes the output and the
    fp32 sums. The backward computes the scores again, dP, dq, dk, dv and dw. It reads what the
    forward read, the output and two gradients, and writes a gradient per input.
    """
    rows = at.batch * heads * at.pairs
    tensors = 2 * heads * at.queries * width + 2 * groups * at.keys * width + at.keys * columns
    sums = 4 * at.queries * columns
    forward = Work(2 * rows * (2 * width + columns), at.batch * (at.size * tensors + sums))
    tensors = 2 * tensors
    return forward, Work(
        2 * rows * (5 * width + 2 * columns), at.batch * (at.size * tensors + sums)
    )


def lorra_attention(at: Attended, shape: Shape) -> tuple[Work, Work]:
    """Forward and backward of a learner's attention, up to its factor B_o.

    The forward reads x, the source tokens and their products with A_q, A_k and A_v, and writes
    `[T, r]`. The backward multiplies the low-rank products twice for gradients and once to
    recompute them. It computes the scores again, dq and dk of D numbers per pair, dP and the
    gradient of the values. It reads what the forward read and a gradient, and writes one per input.
    """
    width, rank, heads = shape.width, shape.rank, shape.heads
    queries, keys = at.batch * at.queries * width * rank, at.batch * at.keys * width * rank
    pairs = 2 * at.batch * at.pairs
    # The cheaper of two orders. Values of D numbers with A_o after the softmax, or A_o folded into
    # the values, which then have r numbers per head.
    plain = 2 * (queries + keys + keys + queries)
    folded = 2 * (queries + keys + keys + at.batch * at.keys * heads * rank * rank)
    around, value = min(
        (plain, width), (folded, heads * rank), key=lambda order: order[0] + pairs * order[1]
    )
    tensors = (at.queries + at.keys) * (width + 2 * rank)
    moved = at.size * (at.batch * tensors + 4 * width * rank)
    return (
        Work(around + pairs * (width + value), moved),
        Work(3 * around + pairs * (3 * width + 2 * value), 2 * moved),
    )


def step_ratio(shape: Shape, length: int) -> float:
    """Operations of a training step with wings over those of the bare LLM, head included.

    Products with weights count three times: forward and two gradients. The two products per pair of
    attention become seven. The vision tower and the projector are left out.
    """
    width, rank, heads = shape.width, shape.rank, shape.heads
    keys_width = width * shape.key_heads // heads
    block = 2 * width * (width + keys_width) + 3 * width * shape.inner
    weights = shape.layers * block + width * shape.vocabulary
    causal = causal_pairs(length)
    bare = 3 * 2 * length * weights + shape.layers * 7 * 2 * causal * width
    more = 3 * 2 * heads * causal * COLUMNS
    for keys, pairs in shape.learner_sizes(length):
        forward, backward = lorra_attention(Attended(1, length, keys, pairs, 2), shape)
        # A_q and B_o for every token, A_k and A_v for the learner's own tokens.
        more += forward.operations + backward.operations
        more += 3 * 2 * (2 * length + 2 * keys) * width * rank
    return 1 + shape.layers * more / bare


def kernel_step_ratio(shape: Shape, length: int, speeds: Speeds = EVEN) -> float:
    """Time of a training step with the Triton kernels over that of the bare LLM, by operations.

    Counts what the kernels run (see their `forward.py`), not the fewest possible: scores are
    computed again by both kernels of a backward, and columns are padded to 16. The bare LLM has
    FlashAttention's two products per pair forward and five backward. Memory traffic, partly masked
    blocks, the vision tower and the projector are left out.

    Args:
        shape: of the decoder.
        length: T, with one image in the row.
        speeds: of the products.
    """
    width, rank, heads = shape.width, shape.rank, shape.heads
    columns = 16
    block = 2 * width * (width + width * shape.key_heads // heads) + 3 * width * shape.inner
    weights = shape.layers * block + width * shape.vocabulary
    bare_matrix = 3 * 2 * length * weights
    causal = causal_pairs(length)
    bare_attention = shape.layers * 7 * 2 * causal * width
    # Forward, and the backward's kernels over queries and over keys: 9 products for the bare 7.
    ours = 2 * causal * (9 * width + 4 * heads * columns)
    matrix = 0
    for keys, pairs in shape.learner_sizes(length):
        # The same three kernels of a learner.
        ours += 2 * pairs * (5 * width + 4 * heads * rank)
        # Keys and folded values forward; what the backward multiplies around its kernels.
        matrix += 2 * (length + 2 * keys) * width * rank + 2 * keys * heads * rank * rank
        matrix += 8 * (length + keys) * width * rank
        # A_q and B_o for every token, A_k and A_v for the learner's own tokens; three times.
        matrix += 3 * 2 * (2 * length + 2 * keys) * width * rank
    bare = bare_matrix / speeds.matrix + bare_attention / speeds.bare
    more = (bare_matrix + shape.layers * matrix) / speeds.matrix
    return (more + shape.layers * ours / speeds.ours) / bare
