"""`MergeRecipe`: the models, the method and its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wings.errors import WingsError, nearest

from .methods.method import Method, Values
from .setting import Setting

DTYPES = ("float32", "float16", "bfloat16", "float64")
Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class MergeInput:
    """A model of a recipe: its folder or Hub id, and parameters of its own."""

    source: str
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class MergeRecipe:
    """All that determines a merge.

    Attributes:
        base: the language model.
        children: models that were trained from it.
        method: of the merge.
        settings: parameters that hold for all models without a value of their own.
        dtype: of the merged model; None for the LLM's.
        keep: the child whose parts that see are kept; None for the only one that has some.
    """

    base: MergeInput
    children: Sequence[MergeInput]
    method: Method
    settings: Settings = field(default_factory=dict)
    dtype: str | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise WingsError(
                f"dtype is {self.dtype!r}{nearest(str(self.dtype), DTYPES)}, but must be one of"
                f" {', '.join(DTYPES)}."
            )
        sources = [child.source for child in self.children]
        if not sources:
            raise WingsError("There is no child to merge: name a model trained from the LLM.")
        for source in sources:
            if sources.count(source) > 1:
                raise WingsError(f"The child '{source}' is named twice: name it once.")
        if self.keep is not None and self.keep not in sources:
            raise WingsError(
                f"keep is '{self.keep}', which is no child{nearest(self.keep, sources)}: name one"
                f" of {', '.join(sources)}."
            )
        known = {parameter.name: parameter for parameter in self.method.parameters}
        for settings in (self.settings, self.base.settings, *(c.settings for c in self.children)):
            for name, setting in settings.items():
                if name not in known:
                    raise WingsError(
                        f"{self.method.name} has no parameter '{name}'{nearest(name, known)}: it"
                        f" has {', '.join(known) or 'none'}."
                    )
                for value in setting.values:
                    known[name].validate(value)
        for model in (self.base, *self.children):
            for name in model.settings:
                if not known[name].per_model:
                    raise WingsError(
                        f"{name} of {self.method.name} holds for all models: move it from"
                        f" '{model.source}' to the parameters of the whole."
                    )

    def values(self, tensor: str) -> Values:
        """The parameters of a tensor of the LLM.

        Raises:
            WingsError: a parameter without a value, or values that do not go together.
        """
        children: list[dict[str, Any]] = [{} for _ in self.children]
        shared: dict[str, Any] = {}
        base: dict[str, Any] = {}
        for parameter in self.method.parameters:
            name = parameter.name
            if not parameter.per_model:
                shared[name] = self._value(parameter, (self.settings,), tensor)
                continue
            for child, values in zip(self.children, children, strict=True):
                values[name] = self._value(parameter, (child.settings, self.settings), tensor)
            for settings in (self.base.settings, self.settings):
                if name in settings:
                    base[name] = settings[name].for_tensor(tensor)
                    break
        found = Values(shared, children, base)
        self.method.validate(found)
        return found

    def _value(self, parameter: Any, places: Sequence[Settings], tensor: str) -> Any:
        for settings in places:
            if parameter.name in settings:
                return settings[parameter.name].for_tensor(tensor)
        if parameter.is_required:
            raise WingsError(
                f"{self.method.name} needs {parameter.name}: give it for each child or for all."
            )
        return parameter.default

    def validate_filters(self, tensors: Sequence[str]) -> None:
        """Raises a `WingsError` for a filter that names no tensor of the LLM."""
        for settings in (self.settings, self.base.settings, *(c.settings for c in self.children)):
            for setting in settings.values():
                setting.validate_filters(tensors)
