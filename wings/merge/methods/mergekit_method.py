"""Every other method of mergekit, one tensor at a time."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.upstream.mergekit import (
    REQUIRED,
    MergekitParameter,
    merge_with_mergekit,
    validate_inputs,
    validate_value,
)

from ..chunks import compute_dtype
from .method import Elementwise, Method, Parameter, Values


@dataclass(frozen=True)
class OfMergekit(Parameter):
    """A parameter that mergekit describes.

    Attributes:
        method: it belongs to.
        of_base: the LLM has its own value too.
    """

    method: str = ""
    of_base: bool = False

    @classmethod
    def of(cls, method: str, own: MergekitParameter) -> "OfMergekit":
        """Takes over mergekit's description."""
        is_shared, of_base = own.scope == "shared", own.scope == "input"
        return cls(
            own.name, own.default, own.default is REQUIRED, not is_shared, method=method,
            of_base=of_base,
        )  # fmt: skip

    def validate(self, value: Any) -> None:
        """Raises a `WingsError` for a value of another type."""
        try:
            validate_value(self.method, self.name, value)
        except ValueError as error:
            raise WingsError(
                f"{self.name} is {value!r}, which mergekit's {self.method} does not take: give"
                f" another value."
            ) from error


class MergekitMethod(Method):
    """A method of mergekit; those that draw random numbers draw the same in every run.

    It works on whole tensors, so it takes more memory than our own.

    Args:
        name: of the method.
        parameters: that mergekit describes.
    """

    def __init__(self, name: str, parameters: Sequence[MergekitParameter]) -> None:
        self.name = name
        self.parameters: Sequence[OfMergekit] = [OfMergekit.of(name, one) for one in parameters]

    def validate(self, values: Values) -> None:
        """Raises a `WingsError` for a number of models that the method does not take."""
        try:
            validate_inputs(self.name, 1 + len(values.children))
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise WingsError(f"{self.name}: {reason}; use another method.") from error
        for one in self.parameters:
            if one.of_base and one.is_required and one.name not in values.base:
                raise WingsError(
                    f"{one.name} has no value for the language model, which {self.name} weighs too:"
                    f" list it under models in a configuration."
                )

    def prepare(
        self, name: str, base: Tensor, children: Sequence[Tensor], values: Values
    ) -> Elementwise:
        """As in `Method.prepare`; the whole tensor is merged here."""
        dtype = compute_dtype([base, *children])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(name.encode()))
            merged = merge_with_mergekit(
                self.name, name, [one.to(dtype) for one in (base, *children)], self._values(values)
            ).reshape(-1)

        def elements(base: Tensor, children: Sequence[Tensor], part: slice) -> Tensor:
            return merged[part]

        return elements

    def _values(self, values: Values) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for one in self.parameters:
            if not one.per_model:
                found[one.name] = values.shared[one.name]
                continue
            own = [child[one.name] for child in values.children]
            if one.of_base:
                own.insert(0, values.base.get(one.name, one.default))
            found[one.name] = dict(enumerate(own, start=0 if one.of_base else 1))
        return found
