"""A program that speaks with the shared library of eSpeak NG; `synthesiser.py` runs it.

    python -I -S espeak_child.py LIBRARY [DATA]

It reads a JSON list of [text, voice, rate, pitch] from standard input. It writes the sampling rate
as one little-endian int32, then for each request two int32 (a status code, and the number of bytes
that follow) and the 16-bit samples.

The library's oscillators and random numbers continue from one utterance to the next. So each
utterance is spoken in a fork of the freshly initialised process, and its samples do not depend on
what was said before. The C interface is documented in eSpeak NG's header `speak_lib.h`.
"""

import ctypes
import json
import os
import sys
from typing import Any

SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, without a thread
DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: return an error where data is missing
RATE, PITCH = 1, 3  # espeakRATE, espeakPITCH
POS_CHARACTER, CHARS_UTF8 = 1, 1
NOT_FOUND = 2  # EE_NOT_FOUND
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def main(library: str, data: str | None = None) -> int:
    """Speaks every request; returns the exit status."""
    espeak = ctypes.CDLL(library)
    path = os.fsencode(data) if data else None
    sampling_rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, path, DONT_EXIT)
    if sampling_rate <= 0:
        print(f"{library} finds no data", file=sys.stderr)
        return 1
    # Since this function exists, the library seeds its random numbers with the time.
    if hasattr(espeak, "espeak_ng_SetRandSeed"):
        espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))
    accents, variants = voice_files(espeak)
    write(sampling_rate.to_bytes(4, "little"))
    for text, voice, rate, pitch in json.load(sys.stdin):
        accent, plus, variant = voice.partition("+")
        # The library itself would use another voice, without an error.
        if accent.lower() not in accents or (plus and variant not in variants):
            write_reply(NOT_FOUND, b"")
            continue
        child = os.fork()
        if not child:
            try:
                write_reply(*speak(espeak, text, voice, rate, pitch))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"saying {text!r} ended with status {status}", file=sys.stderr)
            return 1
    return 0


def voice_files(espeak: ctypes.CDLL) -> tuple[set[str], set[str]]:
    """The names of the accents, in small letters, and of the variants in the library's data."""
    data = ctypes.c_char_p()
    espeak.espeak_Info(ctypes.byref(data))
    folder = os.fsdecode(data.value or b"")
    accents = {
        name.lower() for *_, names in os.walk(os.path.join(folder, "lang")) for name in names
    }
    return accents, set(os.listdir(os.path.join(folder, "voices", "!v")))


def speak(
    espeak: ctypes.CDLL, text: str, voice: str, rate: int, pitch: int
) -> tuple[int, bytearray]:
    """Returns the status code and the samples of one utterance."""
    samples = bytearray()

    @CALLBACK
    def keep(wav: Any, count: int, events: int) -> int:
        if wav and count > 0:
            samples.extend(ctypes.string_at(wav, 2 * count))
        return 0

    espeak.espeak_SetSynthCallback(keep)
    status = espeak.espeak_SetVoiceByName(voice.encode())
    espeak.espeak_SetParameter(RATE, rate, 0)
    espeak.espeak_SetParameter(PITCH, pitch, 0)
    said = text.encode() + b"\0"
    status = status or espeak.espeak_Synth(
        said, ctypes.c_size_t(len(said)), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None
    )
    espeak.espeak_Synchronize()
    return status, samples


def write_reply(status: int, samples: bytes | bytearray) -> None:
    """Writes the header and the samples of one utterance."""
    write(status.to_bytes(4, "little") + len(samples).to_bytes(4, "little") + samples)


def write(data: bytes) -> None:
    """Writes to standard output; nothing stays in a buffer that a fork would copy."""
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
