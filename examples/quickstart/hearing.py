"""The hearing part of `wings quickstart --audio`: its speaker, recipes and schedule."""

from pathlib import Path

from wings.config_values import RULES
from wings.errors import WingsError
from wings.examples.schedule import Job
from wings.examples.speech.sound import Speaker, Utterance
from wings.examples.speech.synthesiser import synthesiser
from wings.examples.speech.tones import Tones
from wings.examples.training import make_recipe
from wings.extras import NAME
from wings.train.recipe import Recipe

from . import senses_jobs as jobs
from .methods import ALIGN_RATE, COMMON, METHODS, PROJECTOR_RATE, TUNED
from .sounds import HearingSize

LEARNER_RATE = 3e-3
SEES, HEARS, BOTH = f"row-{METHODS[0].key}", "hears", "both"
# The options of the seeing model, for sounds.
OPTIONS = {name: value for name, value in TUNED.items() if name not in ("learners", "text_guard")}


def choose_speaker() -> tuple[Speaker, str]:
    """The synthesiser of this machine, or tones where none works; and a sentence about it."""
    speaker = synthesiser()
    if speaker is None:
        why = f'no speech synthesiser is installed (python3 -m pip install "{NAME}[speech]")'
    else:
        try:
            speaker.say_all([Utterance("one", voice) for voice in speaker.voices.test])
            return speaker, "Sounds are speech of eSpeak NG."
        except WingsError as error:
            why = str(error).rstrip(".")
    return Tones(), f"Sounds are tones that spell words, as {why}."


def align_recipe(
    data: Path, llm: Path, encoder: Path, output: Path, steps: int, seed: int
) -> Recipe:
    """The first stage: transcripts."""
    return make_recipe(
        "align", data, {"transcripts": None}, output, {},
        {"audio_projector": ALIGN_RATE, "audio_learners": LEARNER_RATE},
        model={"text": str(llm), "audio": str(encoder)},
        senses={"audio": {**OPTIONS, "learners": ["audio"]}}, steps=steps, seed=seed, **COMMON,
    )  # fmt: skip


def instruct_recipe(data: Path, start: Path, output: Path, steps: int, seed: int) -> Recipe:
    """The second stage: questions about a sound, then one about text."""
    rates = {
        "audio_projector": PROJECTOR_RATE,
        "audio_learners": LEARNER_RATE,
        "audio_text_learners": LEARNER_RATE,
    }
    return make_recipe(
        "instruct", data, {"sounds": None}, output, {}, rates, start=str(start), freeze_llm=True,
        senses={"audio": {**OPTIONS, "learners": ["audio", "text"]}}, steps=steps, seed=seed,
        **COMMON,
    )  # fmt: skip


def make_schedule(
    folder: Path,
    models: Path,
    speaker: Speaker,
    seed: int,
    size: HearingSize,
    needs: tuple[str, ...],
) -> list[Job]:
    """The jobs that a quickstart with sounds has besides those of the seeing model.

    Args:
        folder: of the quickstart; has the pictures and the text of the tests in `data`.
        models: folder of the language model.
        speaker: says all words.
        seed: of everything.
        size: of data and trainings.
        needs: keys of the jobs that make the language model.
    """
    data, llm, rows = folder / "data", models / "llm", folder / "rows"
    start = folder / "align-audio"
    align = align_recipe(data, llm, folder / "encoder", start, size.align_steps, seed)
    instruct = instruct_recipe(data, start, rows / HEARS, size.instruct_steps, seed)
    sees, hears = rows / METHODS[0].key, rows / HEARS
    schedule = [
        Job("sounds", "say words and sums", jobs.make_sounds,
            ("sounds", data, speaker, seed, size.amounts), (), 1),
        Job("encoder", "train an audio encoder", jobs.make_encoder,
            ("encoder", folder / "encoder", speaker, seed, size), (), size.encoder_steps),
        Job("align-audio", "stage 1: hearing", jobs.run_align, ("align-audio", align),
            ("sounds", "encoder", *needs), size.align_steps),
        Job(HEARS, "stage 2: hearing", jobs.run_instruct, (HEARS, instruct, data),
            ("align-audio",), size.instruct_steps),
        Job(BOTH, "compose both", jobs.make_both, (BOTH, llm, sees, hears, rows / BOTH, data),
            (SEES, HEARS), 1),
    ]  # fmt: skip
    return schedule + [
        Job(rule_key(rule), f"ask both by the rule {rule}", jobs.score_rule,
            (rule_key(rule), rows / BOTH, rule, data), (BOTH,), 1)
        for rule in RULES
    ]  # fmt: skip


def rule_key(rule: str) -> str:
    """The key of the job that asks the composed model with a rule."""
    return f"{BOTH}-{rule}"
