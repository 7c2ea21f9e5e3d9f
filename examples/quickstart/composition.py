"""`Composition`: one model that sees and one that hears, trained apart and put together."""

import os
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from wings.examples.schedule import Job
from wings.examples.speech.sound import Speaker
from wings.examples.speech.tones import Tones

from . import hearing, senses_report, talk
from .comparison import FIRST, Comparison
from .dataset import QuickstartSize
from .jobs import models_folder
from .methods import Method
from .sounds import HearingSize, SoundAmounts

PREFLIGHT_SIZE = HearingSize(
    SoundAmounts(transcripts=16, conversations=16, held_out=6),
    takes=1,
    stretches=16,
    encoder_steps=2,
    align_steps=1,
    instruct_steps=2,
)


@dataclass(frozen=True)
class Composition(Comparison):
    """Plan of `wings quickstart --audio`: draws, says, trains both, composes and reports.

    Attributes:
        speaker: says all words.
        sentence: on the speaker.
        sounds: size of the part that hears.
    """

    speaker: Speaker = field(default_factory=Tones)
    sentence: str = ""
    sounds: HearingSize = field(default_factory=HearingSize)

    @classmethod
    def of(
        cls,
        methods: list[Method],
        seed: int,
        size: QuickstartSize,
        from_nothing: bool,
        sounds: HearingSize | None,
    ) -> "Composition":
        """The composition with the speaker of this machine."""
        speaker, sentence = hearing.choose_speaker()
        sounds = sounds or HearingSize()
        return cls(methods, seed, size, from_nothing, speaker, sentence, sounds)

    @property
    def introduction(self) -> str:
        """A sentence on the speaker."""
        return self.sentence

    def preflight(self) -> "Composition":
        """The same parts on a few samples."""
        few = super().preflight()
        assert isinstance(few, Composition)
        return replace(few, sounds=PREFLIGHT_SIZE)

    def jobs(self, folder: Path) -> list[Job]:
        """All jobs after the drawing."""
        models = models_folder(folder, self.from_nothing)
        needs = ("llm",) if self.from_nothing else ()
        heard = hearing.make_schedule(folder, models, self.speaker, self.seed, self.sounds, needs)
        return super().jobs(folder) + heard

    def print_results(self, console: Console, results: dict[str, Any]) -> None:
        """Prints the tables."""
        senses_report.print_tables(console, senses_report.read_results(results))

    def ask(self, console: Console, pool: Executor, folder: Path) -> list[dict[str, Any]]:
        """Has a conversation about a new picture and new sounds; returns its turns."""
        return talk.talk(console, pool, folder, self.both(folder), self.speaker, self.seed)

    def save(
        self, folder: Path, results: dict[str, Any], shown: list[dict], seconds: dict[str, float]
    ) -> None:
        """Writes the report."""
        size = {**self.shown_size(), "sounds": asdict(self.sounds)}
        document = {
            "seed": self.seed,
            "speaker": self.sentence,
            "size": size,
            "seconds": seconds,
            "cpu_seconds": round(sum(os.times()[:4]), 1),  # of all processes
            "talk": shown,
            "jobs": results,
        }
        senses_report.save(folder, senses_report.read_results(results), document)

    def both(self, folder: Path) -> Path:
        """The composed checkpoint."""
        return folder / "rows" / hearing.BOTH

    def commands(self, folder: Path) -> list[str]:
        """Commands to go on with."""
        rows, llm, data = folder / "rows", folder / "llm", folder / "data"
        sound = folder / talk.FOLDER / "1.wav"
        tests = f"--pictures {data}/pictures_held_out.jsonl --sounds {data}/sounds_held_out.jsonl"
        parts = f"{self.checkpoint(folder)} {rows / hearing.HEARS}"
        return [
            f"wings chat {self.both(folder)} --image {folder / FIRST} --audio {sound}",
            f"wings eval {self.both(folder)} --against {llm} {tests}",
            f"wings compose {llm} {parts} --output {rows / 'mean'} --rule mean",
        ]
