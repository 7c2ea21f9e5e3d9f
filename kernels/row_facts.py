"""Facts of each query for a kernel over keys: lse, delta and its key range, in one int32 tensor.

The kernel loads these four numbers of a block of queries as one tile `[BM, 4]`. As four vectors,
each thread would load the numbers of all columns that it holds: 32 loads a step in Triton 3.6.
"""

import triton
import triton.language as tl

from .tiles import load_tile


@triton.jit
def store_facts(
    p_facts: tl.tensor, b_lse: tl.tensor, b_delta: tl.tensor, b_first: tl.tensor, b_end: tl.tensor,
    mask: tl.tensor,
) -> None:  # fmt: skip
    """Stores the facts of a block of queries; `p_facts` points to the four numbers of each."""
    tl.store(p_facts, b_lse.to(tl.int32, bitcast=True), mask=mask)
    tl.store(p_facts + 1, b_delta.to(tl.int32, bitcast=True), mask=mask)
    tl.store(p_facts + 2, b_first, mask=mask)
    tl.store(p_facts + 3, b_end, mask=mask)


@triton.jit
def load_facts(
    p_facts: tl.tensor, start: tl.tensor, rows: tl.tensor, ROWS: tl.constexpr, MASKED: tl.constexpr
) -> tl.tensor:
    """The facts of the queries from `start` on, `[ROWS, 4]`.

    Queries past the last one have an empty range.
    """
    return load_tile(p_facts, start, 4, rows, ROWS, 4, 4, MASKED)


@triton.jit
def fact(b_facts: tl.tensor, which: tl.constexpr) -> tl.tensor:
    """One of the four columns, as a vector; registers have no indexing."""
    return tl.sum(tl.where(tl.arange(0, 4)[None, :] == which, b_facts, 0), 1)


@triton.jit
def lse_of(b_facts: tl.tensor) -> tl.tensor:
    """log2 of the sum of exponentials."""
    return fact(b_facts, 0).to(tl.float32, bitcast=True)


@triton.jit
def delta_of(b_facts: tl.tensor) -> tl.tensor:
    """delta, the weighted sum of the gradient of the weights."""
    return fact(b_facts, 1).to(tl.float32, bitcast=True)


@triton.jit
def sees(b_facts: tl.tensor, o_key: tl.tensor) -> tl.tensor:
    """True where a query sees a key: `[keys, queries]`."""
    m_first = o_key[:, None] >= fact(b_facts, 2)[None, :]
    return m_first & (o_key[:, None] < fact(b_facts, 3)[None, :])
