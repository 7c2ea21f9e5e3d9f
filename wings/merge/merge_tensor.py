"""Merges one tensor of the language model, a chunk at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.model.fingerprint import digest, fingerprint_of

from .chunks import chunks, compute_dtype
from .plan import MergePlan
from .source import Source


@dataclass
class MergeTrace:
    """Facts about the sources, collected while they are merged.

    Attributes:
        digests: for each source by its name as given, the digest of each tensor of its LLM.
        moved: names of the children with a tensor that differs from the LLM's.
    """

    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)

    def add(self, source: Source, name: str, tensor: Tensor) -> None:
        """Adds the digest of a tensor."""
        self.digests.setdefault(source.given, {})[name] = digest(tensor)

    def fingerprint(self, source: Source) -> str:
        """The fingerprint of a source's language model, as learners name theirs."""
        return fingerprint_of(self.digests[source.given])


def merge_tensor(
    plan: MergePlan, name: str, dtype: torch.dtype, trace: MergeTrace
) -> Iterator[Tensor]:
    """Yields the elements of a merged tensor, flat, a chunk at a time.

    Args:
        plan: of the merge.
        name: of the tensor in the LLM.
        dtype: of the result.
        trace: gets what is seen of the sources.

    Raises:
        WingsError: NaN or Inf in a source or in the result, with the tensor's name.
    """
    base = _read(plan, plan.llm.source, plan.llm.stored(name), name, trace)
    children = [
        _read(plan, view.source, view.stored(name, plan.llm), name, trace) for view in plan.views
    ]
    whole = children[list(plan.views).index(plan.kept)]
    width, rows = 1, None
    if name in plan.llm.rows:
        width = whole[0].numel()
        common = min(len(one) for one in (base, *children))
        rows = plan.rows[:common]
        base, children = base[:common], [child[:common] for child in children]
        # Rows that are not merged must not count among the moves.
        for one in (base, *children):
            one[rows] = whole[:common][rows].to(one.dtype)
    merge = plan.recipe.method.prepare(name, base, children, plan.recipe.values(name))
    wide = compute_dtype([base, *children])
    flat, flats, kept = base.reshape(-1), [c.reshape(-1) for c in children], whole.reshape(-1)
    for part in chunks(flat.numel(), width):
        before, after = flat[part].to(wide), [child[part].to(wide) for child in flats]
        for view, child in zip(plan.views, after, strict=True):
            if view.source.given not in trace.moved and not torch.equal(before, child):
                trace.moved.add(view.source.given)
        merged = merge(before, after, part).to(dtype)
        if rows is not None:
            own = rows[part.start // width : part.stop // width]
            merged.view(-1, width)[own] = kept[part].view(-1, width)[own].to(dtype)
        _validate_result(merged, name, dtype)
        yield merged
    for part in chunks(kept.numel() - flat.numel()):
        rest = kept[flat.numel() :][part].to(dtype)
        _validate_result(rest, name, dtype)
        yield rest


def _read(plan: MergePlan, source: Source, stored: str, name: str, trace: MergeTrace) -> Tensor:
    tensor = source.store[stored].read()
    flat = tensor.reshape(-1)
    if not all(bool(flat[part].isfinite().all()) for part in chunks(flat.numel())):
        raise WingsError(
            f"The tensor {stored} of '{source.given}' has NaN or infinite elements: name a model"
            f" without them."
        )
    trace.add(source, plan.llm.name_in_wings(name), tensor)
    return tensor


def _validate_result(tensor: Tensor, name: str, dtype: torch.dtype) -> None:
    if not bool(tensor.isfinite().all()):
        kind = str(dtype).removeprefix("torch.")
        raise WingsError(
            f"The merged tensor {name} has elements that {kind} cannot hold: give a wider dtype, or"
            f" smaller weights."
        )
