"""`Sense`: a sense of a model, such as images: its encoder, its placeholder and its learners."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .config_values import CHECKS, shown
from .errors import WingsError, nearest

IMAGE, TEXT = "image", "text"
NAME = re.compile("[a-z][a-z0-9]*")
# Names of the tensors with the items of a sense; `past_key_values` is none.
VALUES = re.compile("[a-z][a-z0-9]*_values")
# Parts of a block and of a model have these names; a sense of such a name would hide one.
TAKEN = frozenset({IMAGE, TEXT, "lora", "prefix", "router", "wings", "vision", "language"})


def values_name(sense: str) -> str:
    """The name of the tensor with the items of a sense: `pixel_values`, `audio_values`."""
    return "pixel_values" if sense == IMAGE else f"{sense}_values"


class Words(NamedTuple):
    """Words of errors about a sense.

    Attributes:
        one, many: of its items, such as "an image" and "images".
        encoder: of its encoder.
    """

    one: str
    many: str
    encoder: str

    @classmethod
    def of(cls, sense: str) -> "Words":
        """An image is an image; the items of other senses have no name of their own."""
        if sense == IMAGE:
            return cls("an image", "images", "vision tower")
        return cls(f"an item of {sense}", f"items of {sense}", "encoder")


class SourceKind(NamedTuple):
    """The tokens that a learner reads: of one kind of `TokenLayout`, RMS-normalised or not."""

    kind: int
    normalized: bool


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
        values_name: of the tensor that a model is called with: `pixel_values`, `audio_values`.
        encoder_name, projector_name: of the model's modules that encode its items and bring
            features to the decoder's width.
        router_name: of a block's module that weighs its learners.
        modules: of a block, those of all of its learners, in order.
        reads: the tokens that each of its learners reads, in the same order.
        is_routed: whether its blocks have a router: one is configured, and there are enough
            learners for it.
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

    # Names and what else follows from the fields, written down once: every block reads them.
    values_name: str = dataclasses.field(init=False)
    encoder_name: str = dataclasses.field(init=False)
    projector_name: str = dataclasses.field(init=False)
    router_name: str = dataclasses.field(init=False)
    modules: tuple[str, ...] = dataclasses.field(init=False)
    reads: tuple[SourceKind, ...] = dataclasses.field(init=False)
    is_routed: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        sees = self.name == IMAGE
        fewest = 1 if self.router == "attended" else 2
        derived = {
            "values_name": values_name(self.name),
            "encoder_name": "vision_tower" if sees else f"{self.name}_encoder",
            "projector_name": "projector" if sees else f"{self.name}_projector",
            "router_name": "router" if sees else f"{self.name}_router",
            "modules": tuple(self.module_of(name) for name in self.learners),
            "reads": tuple(
                SourceKind(0 if name == TEXT else self.kind, self.normalize_sources)
                for name in self.learners
            ),
            "is_routed": self.router is not None and len(self.learners) >= fewest,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def gate_options(self) -> dict[str, Any]:
        """Keywords of `wings.layers.router.AttendedRouter`."""
        return {"shape": self.gate_shape, "detach": self.gate_detach, "power": self.gate_power}

    def module_of(self, learner: str) -> str:
        """A block's module of one of its `learners`; those of images have their own names."""
        if self.name == IMAGE or learner == self.name:
            return learner
        return f"{self.name}_{learner}"


# The fields that a person writes of a sense, with their defaults; None is filled in by the model.
FIELDS: dict[str, Any] = {
    "encoder": None, "projector": "mlp2x_gelu", "token_id": None, "seq_length": None,
    "learners": None, "learner_layers": None, "guard": True, "rank": 64, "router": "attended",
    "learner_form": "lorra", "share_factors": False, "normalize_sources": False, "init_std": 0.02,
    "router_positions": 4096, "gate_shape": "tanh", "gate_power": 8.0, "gate_detach": False,
}  # fmt: skip
# Fields that `CHECKS` has under the name that they have for images.
AS_IMAGE = {"guard": "text_guard", "token_id": "image_token_id", "seq_length": "image_seq_length"}


def validate_senses(senses: Mapping) -> None:
    """Raises a `WingsError` for a bad name, an unknown field or a bad value of further senses."""
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


def validate_values(
    name: str, fields: Mapping[str, Any], where: str, needs_encoder: bool = True
) -> None:
    """Raises a `WingsError` for the first bad value of the sense `name`."""
    if needs_encoder and not isinstance(fields.get("encoder"), Mapping):
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
