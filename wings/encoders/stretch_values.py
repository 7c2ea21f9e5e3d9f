"""`StretchValues`: turns one stretch of sound into the values that an audio encoder takes."""

from collections.abc import Mapping
from operator import lt
from typing import Any

import numpy as np
import transformers
from transformers import FeatureExtractionMixin

from wings.errors import WingsError


class StretchValues:
    """A feature extractor of transformers, called so that every stretch gives the same shape.

    Extractors differ in how they treat a sound that is shorter than they were made for: some pad
    the samples, some the spectrogram, some repeat the sound, some do nothing. Trials on noise find
    out which of these calls keeps the padding short and lets the extractor pad in its own way.

    Args:
        feature_extractor: the extractor's `to_dict()`.
        seconds: length of a stretch.
        item_shape: shape of one stretch's values, where it is known; default: without the padding
            that the extractor adds to a whole stretch.

    Attributes:
        rate: samples per second.
        samples: samples of a stretch.
        name: the keyword by which encoders take the values.
        flags: further outputs of the extractor that are true or false: keyword -> shape of one.
        time_axis: the axis of the values that is time, 0 for the first; None where it is not known.
        trained_frames: length of the time axis as the extractor makes it without being asked.
        item_shape: shape of one stretch's values.

    Raises:
        WingsError: no extractor of sounds, or one that does not give equal values for equal
            stretches, or does not take whole stretches.
    """

    def __init__(
        self,
        feature_extractor: Mapping,
        seconds: float,
        item_shape: tuple[int, ...] | None = None,
    ) -> None:
        self._extractor = _extractor(feature_extractor)
        kind = type(self._extractor).__name__
        rate = getattr(self._extractor, "sampling_rate", None)
        if not isinstance(rate, int) or rate < 1:
            raise WingsError(
                f"The feature extractor {kind} has no sampling rate, so it is none for sounds; "
                "name an audio model."
            )
        self.rate = rate
        self.samples = max(1, round(seconds * rate))
        self._options: dict[str, Any] = {}
        self._pads = True
        noise = np.random.default_rng(0).standard_normal(self.samples).astype(np.float32) / 10
        try:
            self._try_calls(noise)
        # Extractors raise nearly anything.
        except Exception as error:
            raise WingsError(
                f"The feature extractor {kind} gives no values for {seconds:g} seconds of sound "
                f"({short(error)})."
            ) from error
        if item_shape is not None:
            self.item_shape = item_shape
        whole = self._call(noise).shape
        if len(whole) != len(self.item_shape) or any(map(lt, whole, self.item_shape)):
            raise WingsError(
                f"The feature extractor {kind} gives values {list(whole)} for {seconds:g} "
                f"seconds, but 'item_shape' is {list(self.item_shape)}; leave it out."
            )
        values = self(noise)
        last = noise.copy()
        last[-max(1, self.samples // 20) :] *= np.linspace(5, 1, max(1, self.samples // 20))
        if not np.array_equal(values, self(noise)) or np.array_equal(values, self(last)):
            raise WingsError(
                f"The feature extractor {kind} does not take the whole of {seconds:g} seconds; "
                "lower 'seconds'."
            )

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The values of one stretch.

        Args:
            samples: [at most `samples`] float32, at `rate`; less is padded.

        Returns:
            [*item_shape] float32.
        """
        values = self._call(samples)
        return values[tuple(slice(size) for size in self.item_shape)]

    def cut(self, frames: int) -> None:
        """Keeps only the first `frames` of the time axis from now on."""
        shape = list(self.item_shape)
        shape[self.time_axis or 0] = frames
        self.item_shape = tuple(shape)

    def _call(self, samples: np.ndarray) -> np.ndarray:
        if not self._pads:
            samples = np.pad(samples, (0, self.samples - len(samples)))
        return np.asarray(self._outputs(samples)[self.name][0], np.float32)

    def _outputs(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._extractor(
            samples, sampling_rate=self.rate, return_tensors="np", **self._options
        )
        return {name: np.asarray(value) for name, value in outputs.items()}

    def _try_calls(self, noise: np.ndarray) -> None:
        """Finds the call, and from it the keyword, the axis of time and the shape."""
        outputs = self._outputs(noise)
        floats = [name for name, value in outputs.items() if value.dtype.kind == "f"]
        if not floats or len(outputs[floats[0]]) != 1:
            raise ValueError("it gives no numbers of one sound")
        self.name = floats[0]
        self.flags = {
            name: value.shape[1:] for name, value in outputs.items() if value.dtype == bool
        }
        half = noise[: max(1, len(noise) // 2)]
        plain, plain_half = self._call(noise), self._call(half)
        self.time_axis, ended = _time_axis(plain, plain_half)
        self.trained_frames = plain.shape[self.time_axis or 0]
        self._options = {"padding": "max_length", "max_length": len(noise), "truncation": True}
        try:
            exact, exact_half = self._call(noise), self._call(half)
            is_exact = exact.shape == exact_half.shape and (exact.shape == plain.shape or ended)
        # Not every extractor has these options.
        except Exception:
            is_exact = False
        if not is_exact:
            self._options, exact = {}, plain
            self._pads = plain.shape == plain_half.shape
        self.item_shape = exact.shape
        if ended and exact.shape == plain.shape:
            self.cut(self.trained_frames - ended)


def _extractor(fields: Mapping) -> Any:
    name = fields.get("feature_extractor_type")
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, FeatureExtractionMixin):
        raise WingsError(
            f"'feature_extractor' has the type {name!r}, which is no feature extractor of "
            "transformers; give the 'to_dict()' of one."
        )
    try:
        return kind.from_dict(dict(fields))
    # Extractors raise nearly anything.
    except Exception as error:
        raise WingsError(
            f"No {name} can be made of 'feature_extractor' ({short(error)})."
        ) from error


def _time_axis(whole: np.ndarray, half: np.ndarray) -> tuple[int | None, int]:
    """Returns the axis of time, and how many frames at its end hold no sound.

    Args:
        whole: values of a stretch of noise.
        half: values of its first half.
    """
    if whole.ndim == half.ndim and whole.shape != half.shape:
        sizes = zip(whole.shape, half.shape, strict=True)
        return [one != other for one, other in sizes].index(True), 0
    for axis in range(half.ndim):
        frames, ended, ended_half = whole.shape[axis], _ended(whole, axis), _ended(half, axis)
        # Half a stretch ends with padding wherever the extractor pads.
        if 1 < ended_half < frames:
            # An extractor that repeats the sound may pad the rest; this is no end of the sound.
            is_repeated = frames - ended_half > 0.75 * (frames - ended)
            return axis, 0 if is_repeated or ended == 1 else ended
    return (0, 0) if whole.ndim == 1 else (None, 0)


def _ended(values: np.ndarray, axis: int) -> int:
    """Counts the frames at the end that equal the last one."""
    frames = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    differs = (frames != frames[-1]).any(axis=1)
    return len(frames) - 1 - int(differs.nonzero()[0].max(initial=-1))


def short(error: Exception) -> str:
    """The kind and text of another library's error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')[:200]}"
