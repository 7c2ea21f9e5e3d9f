"""`Sense`: a sense of a model, such as images: its encoder, its placeholder and its learners."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from .config_values import CHECKS, shown
from .errors import WingsError, nearest

IMAGE, TEXT = "image", "text"
NAME = re.compile("[a-z][a-z0-9]*")
# Parts of a block and of a model have these names; a sense of such a name would hide one.
TAKEN = frozenset({IMAGE, TEXT, "lora", "prefix", "router", "wings", "vision", "language"})


@dataclasses.dataclass(frozen=True)
class Sense:
    """One sense of a `WingsConfig`; every field has its value.

    Attributes:
        name: `"image"`, `"audio"`, or another word.
        kind: number of its tokens' kind in a `TokenLayout`, from 1.
        encoder: configuration of its encoder, see `wings/encoders/encoder.py`.
        projector: `"mlp2x_gelu"`.
        token_id: of its placeholder, written once per feature; it may be past the vocabulary.
        seq_length: features per item; None until a model knows its encoder.
        learners: of a block: its own name, for the learner of its items, and `"text"`.
        layers: indices of the blocks with its learners, in order; () without any.
        guard: its learners act only on tokens that can see an item of it.
        rank, router, learner_form, share_factors, normalize_sources, init_std, router_positions,
            gate_shape, gate_power, gate_detach: as in `WingsConfig`.
    """

    name: str
    kind: int
    encoder: dict[str, Any]
    projector: str
    token_id: int
    seq_length: int | None
    learners: tuple[str, ...]
    layers: tuple[int, ...]
    guard: bool
    rank: int
    router: str | None
    learner_form: str
    share_factors: bool
    normalize_sources: bool
    init_std: float | str
    router_positions: int
    gate_shape: str
    gate_power: float
    gate_detach: bool

    @property
    def is_routed(self) -> bool:
        """Its blocks have a router: one is configured, and there are enough learners for it."""
        fewest = 1 if self.router == "attended" else 2
        return self.router is not None and len(self.learners) >= fewest

    @property
    def gate_options(self) -> dict[str, Any]:
        """Keywords of `wings.layers.router.AttendedRouter`."""
        return {"shape": self.gate_shape, "detach": self.gate_detach, "power": self.gate_power}

    @property
    def values_name(self) -> str:
        """Name of the tensor that a model is called with: `pixel_values`, `audio_values`."""
        return "pixel_values" if self.name == IMAGE else f"{self.name}_values"

    @property
    def encoder_name(self) -> str:
        """The model's module that encodes its items."""
        return "vision_tower" if self.name == IMAGE else f"{self.name}_encoder"

    @property
    def projector_name(self) -> str:
        """The model's module from its features to the decoder's width."""
        return "projector" if self.name == IMAGE else f"{self.name}_projector"

    @property
    def router_name(self) -> str:
        """A block's module that weighs its learners."""
        return "router" if self.name == IMAGE else f"{self.name}_router"

    def module_of(self, learner: str) -> str:
        """A block's module of one of its `learners`; those of images have their own names."""
        if self.name == IMAGE or learner == self.name:
            return learner
        return f"{self.name}_{learner}"

    def kind_of(self, learner: str) -> int:
        """The kind of the tokens that one of its `learners` reads; text is 0."""
        return 0 if learner == TEXT else self.kind

    @property
    def modules(self) -> tuple[str, ...]:
        """A block's modules of all of its learners, in order."""
        return tuple(self.module_of(name) for name in self.learners)


# The fields that a person writes of a sense, with their defaults; None is filled in by the model.
FIELDS: dict[str, Any] = {
    "encoder": None, "projector": "mlp2x_gelu", "token_id": None, "seq_length": None,
    "learners": None, "learner_layers": None, "guard": True, "rank": 64, "router": "attended",
    "learner_form": "lorra", "share_factors": False, "normalize_sources": False, "init_std": 0.02,
    "router_positions": 4096, "gate_shape": "tanh", "gate_power": 8.0, "gate_detach": False,
}  # fmt: skip
# Fields that `CHECKS` has under the name that they have for images.
AS_IMAGE = {"guard": "text_guard", "token_id": "image_token_id", "seq_length": "image_seq_length"}


def validate_senses(senses: Any) -> None:
    """Raises a `WingsError` for a bad name, an unknown field or a bad value of further senses."""
    if not isinstance(senses, Mapping):
        raise WingsError(f"other_senses is {shown(senses)}, but must map names to fields.")
    for name, fields in senses.items():
        where = f"other_senses[{name!r}]"
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in TAKEN:
            raise WingsError(
                f"{where}: the name of a sense must be lower-case letters and digits, and none of "
                f"{', '.join(sorted(TAKEN))}."
            )
        if not isinstance(fields, Mapping):
            raise WingsError(f"{where} is {shown(fields)}, but must map its fields to values.")
        for field in fields:
            if field not in FIELDS:
                near = nearest(str(field), FIELDS)
                raise WingsError(f"{where} has no field {field!r}{near}.")
        validate_values(name, fields, f"{where}.")


def validate_values(name: str, fields: Mapping[str, Any], where: str) -> None:
    """Raises a `WingsError` for the first bad value of the sense `name`."""
    if not isinstance(fields.get("encoder"), Mapping):
        raise WingsError(f"{where}encoder is missing: a sense needs its encoder's configuration.")
    learners = fields.get("learners")
    if learners is not None:
        names = list(learners) if isinstance(learners, list | tuple) else [None]
        if len({*names}) < len(names) or not all(one in (name, TEXT) for one in names):
            raise WingsError(
                f"{where}learners is {shown(learners)}, but must be a list that names {name!r} and "
                f"'text' at most once."
            )
    for field, value in fields.items():
        if field not in ("encoder", "learners"):
            checked = AS_IMAGE.get(field, field)
            is_good, words = CHECKS[checked]
            if not is_good(value):
                raise WingsError(f"{where}{field} is {shown(value)}, but must be {words}.")
