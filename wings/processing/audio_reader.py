"""Reads a sound from any source: mono samples at one rate, whatever holds them."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wings.errors import WingsError
from wings.extras import require

from .audio_limits import AudioLimits
from .web_file import fetch_file, is_address, read_file, too_many_bytes

# Samples per second of recorders, from the slowest sensors on.
_RATES = (100, 768_000)
# Floats are within -1..1, somewhat beyond after lossy coding; more are integers without a scale.
_LOUDEST = 10.0
_MOST_CHANNELS = 64
_BLOCK = 1 << 16
# A header with such a length of the data was written to a stream, before the length was known.
_UNKNOWN_LENGTH = 2**31 - 2**16
_CUT_OFF = re.compile(r"^data : (\d+) \(should be \d+\)", re.MULTILINE)


class MissingAudio(WingsError):
    """There is no such file."""


def load_audio(source: Any, rate: int, limits: AudioLimits | None = None) -> np.ndarray:
    """Loads one sound as float32 [samples]: the mean of its channels at the wanted rate, in -1..1.

    Args:
        source: a path of a regular file, URL or data URI; the bytes of an audio file (wav, flac,
            ogg, mp3 and what else libsndfile reads); `(array, rate)`; a mapping with `array` and
            `sampling_rate`, or with `bytes` or `path` (how parquet files hold sounds); a decoder
            of torchcodec, as an Audio column of `datasets` gives. An array is [samples],
            [channels, samples] or [samples, channels], the shorter axis being the channels, of
            floats in -1..1, or of uint8, int16 or int32 over their whole range.
        rate: samples per second of the result.
        limits: what the sound may cost; default: `AudioLimits()`.

    Raises:
        WingsError: nothing there, cut off, no sound, beyond the limits, numbers that are not
            finite or of unknown range, a package missing; names the source.
    """
    require("audio")
    if isinstance(source, Mapping) and "array" not in source:
        held = source.get("bytes") or source.get("path")
        if held is None:
            raise WingsError(
                "A sound given as a mapping needs 'array' and 'sampling_rate', or 'bytes' or "
                f"'path', and this one has {', '.join(map(repr, source)) or 'nothing'}."
            )
        return load_audio(held, rate, limits)
    name = describe_sound(source)
    limits = limits or AudioLimits()
    try:
        samples, own_rate = _samples_of(source, limits)
        return _to_rate(samples, own_rate, rate)
    except _NotASound:
        raise
    except WingsError as error:
        raise WingsError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise MissingAudio(f"{name} does not exist.") from error
    # Decoders of damaged files raise nearly anything.
    except Exception as error:
        reason = getattr(error, "error_string", None) or str(error)
        reason = " ".join(reason.split()).rstrip(".")[:300] or type(error).__name__
        raise WingsError(
            f"{name} is not a whole, readable sound ({reason}); give a wav, flac, ogg or mp3 file."
        ) from error


class _NotASound(WingsError):
    """The source is of a type that holds no sound."""


def _samples_of(source: Any, limits: AudioLimits) -> tuple[np.ndarray, int]:
    """The samples of the mean channel, and their rate."""
    if isinstance(source, str) and is_address(source):
        return _decode(fetch_file(source, limits), limits)
    if isinstance(source, str | Path):
        return _decode(read_file(source, limits), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        if memoryview(source).nbytes > limits.most_bytes:
            raise too_many_bytes(memoryview(source).nbytes, limits)
        return _decode(bytes(source), limits)
    if isinstance(source, Mapping):
        array, rate = source["array"], source.get("sampling_rate")
    elif isinstance(source, tuple) and len(source) == 2:
        array, rate = source
    elif hasattr(source, "get_all_samples"):
        decoded = source.get_all_samples()
        array, rate = decoded.data, decoded.sample_rate
    else:
        raise _NotASound(
            f"{describe_sound(source)} is not a sound; give a path, the bytes of a file or "
            "(array, rate)."
        )
    rate = _checked_rate(rate)
    return _mono(array, rate, limits), rate


def _decode(data: bytes, limits: AudioLimits) -> tuple[np.ndarray, int]:
    # Not at the top: an optional package.
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, length = _checked_rate(file.samplerate), file.frames
        _check_length(length, rate, limits)
        cut_off = _CUT_OFF.search(file.extra_info)
        if cut_off and int(cut_off[1]) < _UNKNOWN_LENGTH:
            raise ValueError("it is cut off")
        # Block by block, as only one channel is kept. The header does not bound what is decoded.
        most = int(limits.audio_seconds * rate)
        blocks, read = [np.zeros(0, np.float32)], 0
        while read <= most and len(block := file.read(_BLOCK, "float32", always_2d=True)):
            blocks.append(block.mean(axis=1))
            read += len(block)
    if read < length:
        raise ValueError("it is cut off")
    _check_length(read, rate, limits)
    return np.concatenate(blocks), rate


def _mono(array: Any, rate: int, limits: AudioLimits) -> np.ndarray:
    """The mean channel of an array as float32 [samples]."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    array = np.asarray(array)
    if array.ndim == 2:
        channels_first = array if array.shape[0] <= array.shape[1] else array.T
    elif array.ndim == 1:
        channels_first = array[None]
    else:
        raise WingsError("It must have one or two axes, for samples and channels.")
    if len(channels_first) > _MOST_CHANNELS:
        raise WingsError(
            f"It has {len(channels_first)} channels; give one axis of samples and one of at most "
            f"{_MOST_CHANNELS} channels."
        )
    _check_length(channels_first.shape[1], rate, limits)
    if array.dtype == np.uint8:
        channels_first = (channels_first.astype(np.float32) - 128) / 128
    elif array.dtype in (np.int16, np.int32):
        channels_first = channels_first / np.float32(-int(np.iinfo(array.dtype).min))
    elif array.dtype.kind != "f":
        raise WingsError(
            f"Its numbers are {array.dtype}, whose range is unknown; give floats in -1..1, uint8, "
            "int16 or int32."
        )
    if not channels_first.size:
        raise WingsError("It has no samples.")
    return channels_first.mean(axis=0, dtype=np.float64).astype(np.float32)


def _to_rate(samples: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    # Not at the top: an optional package.
    import soxr

    if not len(samples):
        raise WingsError("It has no samples.")
    if not np.isfinite(samples).all():
        raise WingsError("Some of its samples are NaN or infinite.")
    loudest = float(np.abs(samples).max())
    if loudest > _LOUDEST:
        raise WingsError(
            f"Its samples reach {loudest:,.0f}, but floats must be within -1..1; divide them by "
            "their full range."
        )
    if own_rate != rate:
        samples = soxr.resample(samples, own_rate, rate).astype(np.float32)
        if not len(samples):
            raise WingsError(f"It is shorter than one sample at {rate:,} samples per second.")
    return np.ascontiguousarray(samples)


def _checked_rate(rate: Any) -> int:
    try:
        whole = int(rate)
        if whole == rate and _RATES[0] <= whole <= _RATES[1]:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise WingsError(
        f"Its sampling rate is {rate!r}; it must be a whole number of samples per second from "
        f"{_RATES[0]} to {_RATES[1]:,}."
    )


def _check_length(samples: int, rate: int, limits: AudioLimits) -> None:
    if samples > limits.audio_seconds * rate:
        raise WingsError(
            f"It lasts {samples / rate:,.1f} seconds, longer than audio_seconds allows, "
            f"{limits.audio_seconds:,g}."
        )


def describe_sound(source: Any) -> str:
    """A name of a source for messages, such as "Sound 'a.wav'"."""
    match source:
        case str() | Path():
            return f"Sound {str(source)[:200]!r}"
        case bytes() | bytearray() | memoryview():
            return f"Sound of {len(source)} bytes"
        case Mapping():
            return describe_sound((source.get("array"), source.get("sampling_rate")))
        case (np.ndarray() | Tensor() as array, _) | (np.ndarray() | Tensor() as array):
            return f"Sound array {array.dtype} {list(array.shape)}"
        case (Sequence() as numbers, _) if not isinstance(numbers, str | bytes):
            return f"Sound of {len(numbers)} numbers"
    return " ".join(f"{type(source).__name__} {source!r}".split())[:200]
