"""`seconds_of`: the length of a sound, from its header alone."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wings.errors import WingsError
from wings.extras import require


def seconds_of(source: Any) -> float | None:
    """Seconds of a sound; None where they are not known without reading the whole of it.

    Args:
        source: as `load_audio` takes it.
    """
    if isinstance(source, Mapping):
        if "array" in source:
            return max(len(source["array"]), 1) / source["sampling_rate"]
        source = source.get("bytes") or source.get("path")
    if isinstance(source, tuple):
        samples, rate = source
        return max(samples.shape) / rate
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif not isinstance(source, str | Path):
        return None
    try:
        require("audio")
        import soundfile

        found = soundfile.info(source)
        return found.frames / found.samplerate
    # Addresses, data URIs, damaged files: whoever reads them says what is wrong.
    except (WingsError, RuntimeError, OSError):
        return None
