"""A conversation about a picture and sounds with the composed model of the quickstart."""

import random
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from PIL import Image
from rich.columns import Columns
from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text

from wings.eval.scoring.score import is_exact
from wings.examples.conversations import Exchange
from wings.examples.scenes import ask, draw, make_scene
from wings.examples.speech.questions import Spoken
from wings.examples.speech.records import recorded
from wings.examples.speech.sound import Speaker, Utterance

from . import senses_jobs
from .demo import ENLARGED, half_blocks
from .sounds import spoken
from .texts import World, text_turn

FOLDER = "showcase"


def talk(
    console: Console, pool: Executor, folder: Path, checkpoint: Path, speaker: Speaker, seed: int
) -> list[dict[str, Any]]:
    """Has a conversation about a new picture and two new sounds, and prints it.

    Args:
        console: prints the picture, the questions and the answers.
        pool: runs the model.
        folder: gets the picture and the sounds, in `showcase/`.
        checkpoint: the composed model, loaded with `from_pretrained`.
        speaker: says the sounds in voices that no training had.
        seed: of all that is asked.

    Returns:
        For every turn its question, the right and the given answer, and `picture` or `sound` if it
        has one; a sound's words are in `said`.
    """
    rng = random.Random(f"talk {seed}")
    (folder / FOLDER).mkdir()
    scene = make_scene(rng, count=3)
    image, picture = draw(scene), f"{FOLDER}/1.png"
    image.resize((image.width * ENLARGED,) * 2, Image.Resampling.NEAREST).save(folder / picture)
    first, second = (Exchange("pictures", *ask(rng, scene.things)) for _ in range(2))
    while second.question == first.question:
        second = Exchange("pictures", *ask(rng, scene.things))
    sums, word = (spoken(rng, kind) for kind in ("sum", "word"))
    fact = text_turn(World(), rng, True, "facts")
    turns: list[dict[str, Any]] = []
    messages: list[dict] = []

    def add(exchange: Exchange | Spoken, source: str | None = None, **more: Any) -> None:
        place = None if source is None else str(folder / source)
        if isinstance(exchange, Spoken):
            messages.append(exchange.messages(place)[0])
            question, more = messages[-1]["content"][1]["text"], more | {"said": exchange.words}
        else:
            messages.append(exchange.messages([] if place is None else [place])[0])
            question = exchange.question
        turns.append({"question": question, "right": exchange.answer, **more})

    add(first, picture, picture=picture)
    for number, (heard, after) in enumerate(((sums, second), (word, fact)), 1):
        sound = f"{FOLDER}/{number}.wav"
        voice = rng.choice(speaker.voices.test)
        (made,) = speaker.say_all([Utterance(heard.words, voice)])
        recorded(made, rng).save(folder / sound)
        add(heard, sound, sound=sound, voice=voice)
        add(after)
    answers = pool.submit(senses_jobs.converse, checkpoint, messages).result()
    lines = Text("\n")
    for turn, answer in zip(turns, answers, strict=True):
        turn["answer"] = answer
        source = "[picture] " if "picture" in turn else ""
        source = f"[{turn['sound']}: {turn['said']}] " if "sound" in turn else source
        lines.append(f"{source}{turn['question']}\n", style="dim")
        lines.append(f"  {answer}", style="bold")
        good = is_exact(answer, turn["right"])
        lines.append("\n" if good else f"   (no: {turn['right']})\n", style="red")
    console.print(
        f"\n[bold]{escape(str(checkpoint))}[/], loaded back, sees and hears in one conversation:\n"
    )
    console.print(Columns([half_blocks(image), Group(lines)], padding=(0, 4)))
    console.print()
    return turns
