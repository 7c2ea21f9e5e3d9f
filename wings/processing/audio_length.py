"""`seconds_of`: the length of a sound, from its header alone."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wings.extras import require


def seconds_of(source: Any) -> float | None:
    """Seconds of a sound; None where they are not known without reading the whole of it.

    Args:
        source: as `load_audio` takes it.
    """
    try:
        return _seconds_of(source)
    # Addresses, damaged files, samples without a rate: whoever reads them says what is wrong.
    except Exception:
        return None


def _seconds_of(source: Any) -> float | None:
    if isinstance(source, Mapping):
        if "array" in source:
            return _seconds_of((source["array"], source["sampling_rate"]))
        source = source.get("bytes") or source.get("path")
    if isinstance(source, tuple):
        samples, rate = source
        # The shorter axis of two is that of the channels.
        return max(np.shape(samples)) / rate
    if not isinstance(source, bytes | str | Path):
        return None
    require("audio")
    import soundfile

    found = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
    return found.frames / found.samplerate
