"""`Encoder`: the interface of the encoders of all senses, and which there are."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from wings.errors import WingsError, nearest
from wings.sense import IMAGE

from .audio_encoder import AudioEncoder
from .open_clip_tower import VisionTower


class Encoder(Protocol):
    """A frozen module from the items of a sense to features.

    Attributes:
        config: canonical, JSON-able; the same architecture and preprocessing come from it offline.
        hidden_size: width of a feature.
        seq_length: features per item.
        item_shape: of one item's values, such as `(3, height, width)` of an image.
        dtype: of the weights, to which values are cast.
    """

    config: dict[str, Any]
    hidden_size: int

    @property
    def seq_length(self) -> int: ...

    @property
    def item_shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, values: Tensor) -> Tensor:
        """`[N, *item_shape]` -> `[N, seq_length, hidden_size]`; N may be 0."""
        ...

    def reset_buffers(self) -> None:
        """Recomputes, in place, the buffers that no checkpoint holds."""
        ...


# Type -> the function that builds an encoder with random weights from its configuration.
_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "open_clip": VisionTower,
    "transformers": AudioEncoder,
}


def register_encoder(name: str, build: Callable[[Mapping[str, Any]], Any]) -> None:
    """Makes encoders of a further type known, for senses of one's own.

    Args:
        name: the `type` in their configurations.
        build: makes an `Encoder` with random weights of a configuration.
    """
    _BUILDERS[name] = build


def build_encoder(sense: str, config: Mapping[str, Any]) -> Any:
    """The encoder of a sense, an `nn.Module` with random weights.

    Raises:
        WingsError: no type, or one that is not known.
    """
    kind = config.get("type", "open_clip" if sense == IMAGE else None)
    if kind not in _BUILDERS:
        raise WingsError(
            f"The encoder of {sense!r} has the type {kind!r}{nearest(str(kind), _BUILDERS)}, but "
            f"must have one of {', '.join(sorted(_BUILDERS))}; `register_encoder` adds others."
        )
    return cast(Any, _BUILDERS[kind](config))
