"""Speech from text by eSpeak NG.

    speaker = synthesiser()                 # None where it is not installed
    (sound,) = speaker.say_all([Utterance("seven plus five", "en-us+f3")])

The shared library comes with the package `espeakng-loader`, or with the system's `espeak-ng`. The
same utterance gives the same samples in one release; releases differ a little.
"""

import ctypes.util
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wings.errors import WingsError

from .sound import Sound, Utterance, Voices, from_int16

CHILD = Path(__file__).parent / "espeak_child.py"
RATES, PITCHES = range(80, 451), range(100)
# An accent, and after the plus sign the variant that changes its voice. Each part has its own
# variants; four accents of the test are in no other part.
VOICES = Voices(
    train=(
        "en-us", "en-us+m1", "en-us+f1", "en-us+m3", "en-us+f5", "en-us+Andy", "en-us+linda",
        "en", "en+m1", "en+f1", "en+m6", "en+f5", "en+steph", "en+paul",
        "en-gb-x-gbclan+m3", "en-gb-x-gbclan+f1", "en-gb-x-gbcwmd+m6", "en-gb-x-gbcwmd+f5",
    ),
    validation=("en-us+m8", "en+f2", "en-us+Annie", "en-gb-x-gbclan+m2"),
    test=("en-us+f3", "en-gb-scotland+m4", "en-029+f4", "en-us-nyc+m7", "en-gb-x-rp+belinda"),
)  # fmt: skip


class Synthesiser:
    """Says English text in many voices.

    Args:
        library: path of the shared library, or a name that the loader finds.
        data: the folder `espeak-ng-data`; None for the library's own default.
    """

    def __init__(self, library: str, data: str | None = None) -> None:
        self.command = [sys.executable, "-I", "-S", str(CHILD), library, *([data] if data else [])]
        self.voices = VOICES

    def say_all(self, utterances: Sequence[Utterance]) -> list[Sound]:
        """Says the utterances, in as many processes at once as this process has cores.

        Returns:
            A trimmed sound each, at the library's rate (22,050 hertz in the releases so far).

        Raises:
            WingsError: a voice that this release does not have, a rate or pitch out of range, a
                text without a sound, or a library that fails (which utterance, and why).
        """
        for said in utterances:
            if said.rate not in RATES or said.pitch not in PITCHES:
                raise WingsError(f"{said} needs a rate from 80 to 450 and a pitch from 0 to 99.")
        workers = max(1, min(len(os.sched_getaffinity(0)), len(utterances)))
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(self._say, [utterances[n::workers] for n in range(workers)]))
        return [parts[n % workers][n // workers] for n in range(len(utterances))]

    def _say(self, utterances: Sequence[Utterance]) -> list[Sound]:
        """Says the utterances in one child process."""
        requests = [(said.text, said.voice, said.rate, said.pitch) for said in utterances]
        done = subprocess.run(
            self.command, input=json.dumps(requests).encode(), capture_output=True, check=False
        )
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2].rstrip(".")
            raise WingsError(f"eSpeak NG does not run ({why}); install espeakng-loader.")
        sampling_rate, stream = _int32(done.stdout), io.BytesIO(done.stdout[4:])
        sounds = []
        for said in utterances:
            status, size = (_int32(stream.read(4)) for _ in range(2))
            if status:
                raise WingsError(
                    f"eSpeak NG cannot say {said} (status {status}); give an accent such as en-us, "
                    "or an accent with a variant such as en-us+f3."
                )
            sounds.append(Sound(from_int16(stream.read(size)), sampling_rate).trimmed())
            if not len(sounds[-1].samples):
                raise WingsError(f"{said} makes no sound; give a text with words.")
        return sounds


def synthesiser() -> Synthesiser | None:
    """The synthesiser of this machine, that of the package `espeakng-loader` first; or None."""
    spec = importlib.util.find_spec("espeakng_loader")
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for library in folder.glob("libespeak-ng.*"):
            if library.suffix in (".so", ".dylib"):
                return Synthesiser(str(library), str(folder / "espeak-ng-data"))
    system = ctypes.util.find_library("espeak-ng")
    return Synthesiser(system) if system else None


def _int32(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")
