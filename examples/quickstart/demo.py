"""The end of a quickstart: a checkpoint is loaded back and asked about pictures it shows."""

import random
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.columns import Columns
from rich.console import Console, Group
from rich.text import Text

from wings.eval.scoring.score import is_exact

from . import jobs
from .scenes import Scene, draw, make_scene
from .texts import World, ask, text_turn

PICTURES, QUESTIONS = 2, 4
ENLARGED = 8


def show(
    console: Console, pool: Executor, folder: Path, checkpoint: Path, seed: int
) -> list[dict[str, Any]]:
    """Draws pictures that no file holds, asks about each and, in the same conversation, a text
    question.

    Args:
        console: where pictures and answers are printed.
        pool: where the model runs.
        folder: the pictures are saved under `showcase/` in it.
        checkpoint: a Wings checkpoint, loaded with `from_pretrained`.
        seed: of pictures and questions.

    Returns:
        Per picture its file, and every question with the right answer and the one given.
    """
    rng = random.Random(f"showcase {seed}")
    (folder / "showcase").mkdir()
    shown: list[dict[str, Any]] = []
    conversations: list[list[dict]] = []
    for n in range(PICTURES):
        scene = make_scene(rng, count=2 + n % 2)
        image = draw(scene)
        name = f"showcase/{n + 1}.png"
        image.resize((image.width * ENLARGED,) * 2, Image.Resampling.NEAREST).save(folder / name)
        asked = questions(scene, rng)
        shown.append({"picture": name, "image": image, "asked": asked})
        path = str(folder / name)
        conversations += [conversation(path, asked[: k + 1]) for k in range(len(asked))]
    answers = iter(pool.submit(jobs.converse, checkpoint, conversations).result())
    console.print(f"\n[bold]{checkpoint}[/], loaded back, looks at pictures it never saw:\n")
    for one in shown:
        lines = Text("\n")
        for turn in one["asked"]:
            turn["said"] = next(answers)
            good = is_exact(turn["said"], turn["answer"])
            lines.append(f"{turn['question']}\n", style="dim")
            lines.append(f"  {turn['said']}", style="bold")
            lines.append("\n" if good else f"   (no: {turn['answer']})\n", style="red")
        console.print(Columns([half_blocks(one.pop("image")), Group(lines)], padding=(0, 4)))
        console.print()
    return shown


def questions(scene: Scene, rng: random.Random) -> list[dict[str, str]]:
    """Different questions about a picture, then one that has nothing to do with it."""
    asked: dict[str, str] = {}
    while len(asked) < QUESTIONS:
        question, answer = ask(rng, scene.things)
        asked[question] = answer
    turn = text_turn(World(), rng, True, "facts")
    asked[turn.question] = turn.answer
    return [{"question": question, "answer": answer} for question, answer in asked.items()]


def conversation(picture: str, asked: list[dict[str, str]]) -> list[dict]:
    """The last question, after the right answers to the ones before."""
    messages: list[dict] = []
    for n, turn in enumerate(asked):
        parts = [{"type": "image", "image": picture}] if n == 0 else []
        messages.append(
            {"role": "user", "content": [*parts, {"type": "text", "text": turn["question"]}]}
        )
        messages.append({"role": "assistant", "content": turn["answer"]})
    return messages[:-1]


def half_blocks(image: Image.Image) -> Text:
    """A picture as letters: each is two pixels, one above the other."""
    text = Text()
    pixels = np.asarray(image.convert("RGB")).tolist()  # rows of [red, green, blue]
    for y in range(0, image.height - 1, 2):
        for x in range(image.width):
            above, below = (rgb(pixels[y + k][x]) for k in (0, 1))
            text.append("▀", style=f"{above} on {below}")
        text.append("\n")
    return text


def rgb(pixel: Sequence[int]) -> str:
    """A colour as rich writes it."""
    return "#{:02x}{:02x}{:02x}".format(*pixel)
