"""The quickstart's demo: a checkpoint is loaded and answers questions about new pictures."""

import random
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.columns import Columns
from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text

from wings.eval.scoring.score import is_exact
from wings.examples.conversations import Exchange
from wings.examples.scenes import Scene, ask, draw, make_scene

from . import jobs
from .texts import World, text_turn

PICTURES, QUESTIONS = 2, 4
ENLARGED = 8


def show(
    console: Console, pool: Executor, folder: Path, checkpoint: Path, seed: int
) -> list[dict[str, Any]]:
    """Asks a checkpoint about new pictures, and a text question in the same conversation.

    Args:
        console: prints pictures and answers.
        pool: runs the model.
        folder: gets the pictures, in `showcase/`.
        checkpoint: a Wings checkpoint, loaded with `from_pretrained`.
        seed: of pictures and questions.

    Returns:
        For every picture its file and the questions, with the right and the given answers.
    """
    rng = random.Random(f"showcase {seed}")
    (folder / "showcase").mkdir()
    shown: list[dict[str, Any]] = []
    images: list[Image.Image] = []
    conversations: list[list[dict]] = []
    for n in range(PICTURES):
        scene = make_scene(rng, count=2 + n % 2)
        name = f"showcase/{n + 1}.png"
        images.append(image := draw(scene))
        image.resize((image.width * ENLARGED,) * 2, Image.Resampling.NEAREST).save(folder / name)
        turns = questions(scene, rng)
        shown.append({"picture": name, "asked": turns})
        # The right answers to earlier questions come before each question.
        messages: list[dict] = []
        for turn in turns:
            exchange = Exchange("", turn["question"], turn["answer"])
            messages += exchange.messages([] if messages else [str(folder / name)])
            conversations.append(messages[:-1])
    predictions = iter(pool.submit(jobs.answer_last_turns, checkpoint, conversations).result())
    console.print(
        f"\n[bold]{escape(str(checkpoint))}[/], loaded back, looks at pictures it never saw:\n"
    )
    for image, entry in zip(images, shown, strict=True):
        lines = Text("\n")
        for turn in entry["asked"]:
            turn["said"] = next(predictions)
            good = is_exact(turn["said"], turn["answer"])
            lines.append(f"{turn['question']}\n", style="dim")
            lines.append(f"  {turn['said']}", style="bold")
            lines.append("\n" if good else f"   (no: {turn['answer']})\n", style="red")
        console.print(Columns([half_blocks(image), Group(lines)], padding=(0, 4)))
        console.print()
    return shown


def questions(scene: Scene, rng: random.Random) -> list[dict[str, str]]:
    """Different questions about a picture, then one about a fact."""
    answers: dict[str, str] = {}
    while len(answers) < QUESTIONS:
        question, answer = ask(rng, scene.things)
        answers[question] = answer
    turn = text_turn(World(), rng, True, "facts")
    answers[turn.question] = turn.answer
    return [{"question": question, "answer": answer} for question, answer in answers.items()]


def half_blocks(image: Image.Image) -> Text:
    """A picture as characters: each shows two pixels, one above the other."""
    text = Text()
    pixels = np.asarray(image.convert("RGB")).tolist()  # rows of [red, green, blue]
    for y in range(0, image.height - 1, 2):
        for x in range(image.width):
            above, below = ("#{:02x}{:02x}{:02x}".format(*pixels[y + k][x]) for k in (0, 1))
            text.append("▀", style=f"{above} on {below}")
        text.append("\n")
    return text
