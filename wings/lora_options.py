"""`LoraOptions`: adapters on the decoder's linear layers that a checkpoint keeps."""

import dataclasses
import math
from typing import Any

from .errors import WingsError, nearest

GATES = ("attended", "image_tokens", None)


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """`WingsConfig.lora`: adapters on the decoder's linear layers that a checkpoint keeps.

    Attributes:
        rank, alpha: of the adapters; their output is scaled by alpha / rank.
        dropout: on the input of the adapters, in training.
        targets: names of the layers with an adapter, such as `q_proj`; None for all linear layers
            of all blocks.
        guard: adapters act only on tokens that can see an image, or an item of one of `senses`.
        gate: weight of a token's adapters: `"attended"` as by the attended router, `"image_tokens"`
            1 on image tokens and 0 elsewhere (a visual expert, as CogVLM's), or None for 1. With a
            gate there is no effect before an image, guard or not.
        senses: whose items the guard and the gate look for; None for all senses of the model.
        layers: the blocks with adapters; filled in by the model.
        gate_layers: the blocks whose attention gives the gate; filled in by the model.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    guard: bool = True
    gate: str | None = None
    senses: tuple[str, ...] | None = None
    layers: tuple[int, ...] = ()
    gate_layers: tuple[int, ...] = ()

    @classmethod
    def of(cls, fields: Any) -> "LoraOptions":
        """Reads the dict of a configuration.

        Raises:
            WingsError: an unknown field or a bad value, by name.
        """
        if not isinstance(fields, dict):
            raise WingsError(f"lora is {fields!r}, but must be a mapping or None.")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise WingsError(f"lora has no field {name!r}{nearest(str(name), known)}.")
        lists = {
            name: tuple(fields[name])
            for name in ("targets", "senses", "layers", "gate_layers")
            if isinstance(fields.get(name), (list, tuple))
        }
        options = cls(**{**fields, **lists})
        options.validate()
        return options

    def validate(self) -> None:
        """Raises a `WingsError` for the first bad field."""
        rank, alpha, dropout = self.rank, self.alpha, self.dropout
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise WingsError(f"lora.rank is {rank!r}, but must be a whole number above 0.")
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not is_number or not 0 < alpha < math.inf:
            raise WingsError(f"lora.alpha is {alpha!r}, but must be a number above 0.")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)):
            raise WingsError(f"lora.dropout is {dropout!r}, but must be a number.")
        if not 0 <= dropout < 1:
            raise WingsError(f"lora.dropout is {dropout}, but must be a share, 0 to 1.")
        if self.targets is not None and (
            not isinstance(self.targets, tuple)
            or not self.targets
            or not all(isinstance(name, str) for name in self.targets)
        ):
            raise WingsError(f"lora.targets is {self.targets!r}, but must list names of layers.")
        if self.senses is not None and not (isinstance(self.senses, tuple) and self.senses):
            raise WingsError(f"lora.senses is {self.senses!r}, but must list names of senses.")
        if not isinstance(self.guard, bool):
            raise WingsError(f"lora.guard is {self.guard!r}, but must be true or false.")
        if self.gate not in GATES:
            raise WingsError(
                f"lora.gate is {self.gate!r}, but must be 'attended', 'image_tokens' or None."
            )

    def same_weights(self, other: "LoraOptions") -> bool:
        """Returns whether adapters of `other` have the same tensors."""
        return (self.rank, self.targets) == (other.rank, other.targets)

    @property
    def needs_images(self) -> bool:
        """True where adapters have no effect without an image."""
        return self.guard or self.gate is not None

    def to_dict(self) -> dict[str, Any]:
        """The mapping that `of` reads, as JSON can hold it."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
