"""`WingsAudioProcessor`: turns sounds into an audio encoder's values, stretch by stretch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import FeatureExtractionMixin

from wings.encoders.stretch_values import StretchValues
from wings.errors import WingsError

from .audio_limits import AudioLimits
from .audio_reader import describe_sound, load_audio


class WingsAudioProcessor(FeatureExtractionMixin):
    """Turns sounds into the values of one audio encoder; settings have its config's names.

    A clip is cut into stretches, of which the last is padded as the encoder's feature extractor
    pads. Each stretch is treated alone, so that a clip gives the same values in any batch.

    Args:
        feature_extractor: `to_dict()` of the encoder's feature extractor.
        seconds: length of a stretch.
        item_shape: shape of a stretch's values, from the encoder's canonical config.
        max_stretches: stretches of the longest clip that is taken.

    Attributes:
        limits: what a sound may cost; not saved.

    Raises:
        WingsError: settings that no encoder has.
    """

    limits = AudioLimits()

    def __init__(
        self,
        feature_extractor: Mapping,
        seconds: float,
        item_shape: Sequence[int],
        max_stretches: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if type(max_stretches) is not int or max_stretches < 1:
            raise WingsError(f"'max_stretches' is {max_stretches!r}; it must be 1 or more.")
        self.feature_extractor = dict(feature_extractor)
        self.seconds = seconds
        self.item_shape = list(item_shape)
        self.max_stretches = max_stretches
        self._values = StretchValues(feature_extractor, seconds, tuple(item_shape))

    @classmethod
    def from_audio_config(cls, config: Mapping, **options: Any) -> "WingsAudioProcessor":
        """The processor of the encoder with this (canonical) config; `options` as in the class."""
        fields = {key: config[key] for key in ("feature_extractor", "seconds", "item_shape")}
        return cls(**fields, **options)

    @property
    def rate(self) -> int:
        """Samples per second that the feature extractor takes."""
        return self._values.rate

    def to_dict(self) -> dict[str, Any]:
        """The settings that are saved."""
        return {
            "feature_extractor_type": type(self).__name__,
            "feature_extractor": self.feature_extractor,
            "seconds": self.seconds,
            "item_shape": self.item_shape,
            "max_stretches": self.max_stretches,
        }

    def __call__(self, sounds: Any) -> list[Tensor]:
        """The values of some sounds.

        Args:
            sounds: one source as `load_audio` takes it, or any nesting of lists of them.

        Returns:
            Per sound, in reading order: [stretches, *item_shape] float32, one stretch or more.

        Raises:
            WingsError: a sound that cannot be read or is too long (which).
        """
        return [self._stretches(source) for source in flatten_sounds(sounds)]

    def _stretches(self, source: Any) -> Tensor:
        samples = load_audio(source, self.rate, self.limits)
        starts = range(0, len(samples), self._values.samples)
        if len(starts) > self.max_stretches:
            raise WingsError(
                f"{describe_sound(source)}: It lasts {len(samples) / self.rate:,.1f} "
                f"seconds, which are {len(starts):,} stretches of {self.seconds:g} s, more "
                f"than max_stretches allows, {self.max_stretches}."
            )
        parts = [self._values(samples[start : start + self._values.samples]) for start in starts]
        return torch.from_numpy(np.stack(parts))


def flatten_sounds(sounds: Any) -> list:
    """Lists the sources of one sound, None, or any nesting of lists, in reading order."""
    if sounds is None:
        return []
    if isinstance(sounds, list):
        return [source for inner in sounds for source in flatten_sounds(inner)]
    return [sounds]
