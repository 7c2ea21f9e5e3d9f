"""The fewest operations an operation must do and the fewest bytes it must move, as formulas.

Operations are those of matrix products, two for a multiplication and its addition; exponentials are
left out, though they have a unit and a limit of their own. Each input is read once and each output
written once. `pairs` is how many (query, key) pairs are visible in one row of a batch: a causal
square of T tokens has T (T + 1) / 2.
"""

from dataclasses import dataclass

from .batch import COLUMNS, causal_pairs, sources
from .ceilings import Ceilings
from .preset import Shape


@dataclass(frozen=True)
class Work:
    """Operations to do and bytes to move."""

    operations: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds: whichever of the two takes longer."""
        return max(self.operations / ceilings.operations, self.bytes / ceilings.bytes)


@dataclass(frozen=True)
class Attended:
    """B rows of T queries that see `pairs` of S keys, in elements of `size` bytes."""

    batch: int
    queries: int
    keys: int
    pairs: int
    size: int


def routed_attention(at: Attended, heads: int, groups: int, width: int, columns: int) -> Work:
    """Forward: q k^T, P v and P w; q, k, v, w in, the output and the sums (fp32) out."""
    rows = at.batch * heads * at.pairs
    tensors = 2 * heads * at.queries * width + 2 * groups * at.keys * width + at.keys * columns
    return Work(
        2 * rows * (2 * width + columns),
        at.batch * (at.size * tensors + 4 * at.queries * columns),
    )


def routed_attention_backward(
    at: Attended, heads: int, groups: int, width: int, columns: int
) -> Work:
    """Backward: the scores again, dP, dq, dk, dv and dw; no weights are kept, so five products.

    Reads what the forward read, its output and the gradients of both outputs; writes a gradient per
    input.
    """
    rows = at.batch * heads * at.pairs
    tensors = 4 * heads * at.queries * width + 4 * groups * at.keys * width + 2 * at.keys * columns
    return Work(
        2 * rows * (5 * width + 2 * columns),
        at.batch * (at.size * tensors + 4 * at.queries * columns),
    )


def learner_attention(at: Attended, shape: Shape) -> Work:
    """Forward of a learner up to B_o: x, s and their products with A_q, A_k, A_v in, [T, r] out."""
    projections, value = cheaper_order(at, shape)
    operations = projections + 2 * at.batch * at.pairs * (shape.width + value)
    tensors = (at.queries + at.keys) * (shape.width + 2 * shape.rank)
    return Work(operations, at.size * (at.batch * tensors + 4 * shape.width * shape.rank))


def learner_attention_backward(at: Attended, shape: Shape) -> Work:
    """Backward: the projections' products twice, and once more what no one kept; pairs as above.

    Scores again, dq and dk over D numbers a pair, dP and the values' gradient. Reads what the
    forward read and the output's gradient; writes a gradient per input.
    """
    projections, value = cheaper_order(at, shape)
    operations = 3 * projections + 2 * at.batch * at.pairs * (3 * shape.width + 2 * value)
    return Work(operations, 2 * learner_attention(at, shape).bytes)


def cheaper_order(at: Attended, shape: Shape) -> tuple[int, int]:
    """Operations of the products around a learner's softmax, and its values' numbers per pair.

    x + t B_q and s + c_k B_k in any case. Then s + c_v B_v as values of D numbers with A_o behind
    the softmax; or A_o folded into them, r numbers a head.
    """
    width, rank, heads = shape.width, shape.rank, shape.heads
    rows, keys = at.batch * at.queries * width * rank, at.batch * at.keys * width * rank
    plain = 2 * (rows + keys + keys + rows)
    folded = 2 * (rows + keys + keys + at.batch * at.keys * heads * rank * rank)
    pairs = 2 * at.batch * at.pairs
    return min(
        (plain, width), (folded, heads * rank), key=lambda order: order[0] + pairs * order[1]
    )


def step_ratio(shape: Shape, length: int) -> float:
    """Operations of a training step with wings over those of the bare decoder's (head included).

    Products with weights count three times (forward and two gradients), attention's two products a
    pair become seven. The tower and the projector are left out.
    """
    width, rank, heads = shape.width, shape.rank, shape.heads
    keys_width = width * shape.key_heads // heads
    block = 2 * width * (width + keys_width) + 3 * width * shape.inner
    weights = shape.layers * block + width * shape.vocabulary
    causal = causal_pairs(length)
    bare = 3 * 2 * length * weights + shape.layers * 7 * 2 * causal * width
    more = 3 * 2 * heads * causal * COLUMNS
    for keys, pairs in sources(shape, length):
        at = Attended(1, length, keys, pairs, 2)
        more += learner_attention(at, shape).operations
        more += learner_attention_backward(at, shape).operations
        # A_q and B_o for every token, A_k and A_v for the learner's own.
        more += 3 * 2 * (2 * length + 2 * keys) * width * rank
    return 1 + shape.layers * more / bare
