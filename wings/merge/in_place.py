"""Writes merged tensors into a loaded child, so that many merges are measured without files."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wings.errors import WingsError

from .language_view import LanguageView, names_in
from .merge_tensor import MergeTrace, merge_tensor
from .plan import MergePlan, merged_dtype, nothing_to_merge
from .recipe import MergeRecipe


class InPlaceMerge:
    """A loaded child and the plan of its merge.

    Args:
        plan: of a merge that keeps the child's other parts.
        model: the kept child, as loaded from its folder.

    Raises:
        WingsError: a tensor of the LLM that the loaded model has in another form, or a child with
            the LLM's own weights.
    """

    def __init__(self, plan: MergePlan, model: PreTrainedModel) -> None:
        self.plan = plan
        self.tensors = _tensors(plan, model)
        for view in plan.views:
            if not any(_differs(plan, view, name) for name in plan.llm.names):
                raise nothing_to_merge(plan, view)

    def write(self, recipe: MergeRecipe) -> None:
        """Writes the merge of a recipe with the plan's models; memory is that of one tensor each.

        Raises:
            WingsError: NaN or Inf in a source or in the result.
        """
        plan, trace = replace(self.plan, recipe=recipe), MergeTrace()
        for name, tensor in self.tensors.items():
            parts = merge_tensor(plan, name, merged_dtype(recipe, plan.llm, name), trace)
            tensor.copy_(torch.cat(list(parts)).view(tensor.shape))


def _differs(plan: MergePlan, view: LanguageView, name: str) -> bool:
    """True if a child's tensor is not the LLM's; rows that only one of them has do not count."""
    own = plan.llm.source.store[plan.llm.stored(name)].read()
    other = view.source.store[view.stored(name, plan.llm)].read()
    if name in plan.llm.rows:
        common = min(len(own), len(other))
        own, other = own[:common], other[:common]
    wide = torch.promote_types(own.dtype, other.dtype)
    return not torch.equal(own.to(wide), other.to(wide))


def _tensors(plan: MergePlan, model: PreTrainedModel) -> Mapping[str, Tensor]:
    """The LLM's names -> the loaded model's tensors, each once."""
    if plan.unties_head:
        raise WingsError(
            f"'{plan.kept.source.given}' lacks an output head of its own, which the merge needs, so"
            f" it cannot be swept: run wings merge for each value."
        )
    llm, state = plan.llm, model.state_dict()
    _, names = names_in(llm, state, plan.kept.source.given)
    found: dict[str, Tensor] = {}
    for name in llm.names:
        if name == llm.head and plan.kept.is_tied:
            continue
        stored = plan.kept.source.store[plan.kept.stored(name, llm)]
        tensor = state.get(names[name])
        if tensor is None or tuple(tensor.shape) != stored.shape:
            raise WingsError(
                f"{name} of '{plan.kept.source.given}' is loaded in another form than it is saved"
                f" in, so it cannot be swept: run wings merge for each value."
            )
        found[name] = tensor
    if llm.head in found and found[llm.head].data_ptr() == found[llm.table].data_ptr():
        raise WingsError(
            f"'{plan.kept.source.given}' has an output head of its own and is loaded without, so it"
            f" cannot be swept: run wings merge for each value."
        )
    return found
