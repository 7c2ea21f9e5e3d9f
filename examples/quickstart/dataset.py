"""The quickstart's size and its files: JSON Lines of chat messages, and PNG."""

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wings.examples.conversations import write_lines
from wings.examples.scenes import (
    Scene,
    describe,
    draw,
    make_scene,
    question,
    question_of_two,
    two_scenes,
)

from .texts import KINDS, World, text_turn

# Kinds of text questions in training conversations with pictures. Arithmetic is not among them, so
# that the tests also score text that training does not repeat.
AFTER_PICTURES = ("facts", "instructions", "reading")


@dataclass(frozen=True)
class QuickstartAmounts:
    """Records of each data file."""

    text: int = 70000  # exchanges that the language model is trained on
    captions: int = 3200
    conversations: int = 4000
    held_out: int = 240  # items of each of the three tests

    @property
    def total(self) -> int:
        """Records of all files."""
        return sum(asdict(self).values()) + 2 * self.held_out


@dataclass(frozen=True)
class QuickstartSize:
    """Records, and optimizer steps of every training."""

    amounts: QuickstartAmounts = field(default_factory=QuickstartAmounts)
    tower_steps: int = 300
    llm_steps: int = 2600
    align_steps: int = 200
    instruct_steps: int = 350


class Writer:
    """Writes the files under `folder`: `text.jsonl`, `captions.jsonl`, ... and `img/*.png`.

    Args:
        folder: created; holds every path that the records name.
        seed: each file has its own random stream, so the amount of one does not change another.
        on_record: called after every record.
    """

    def __init__(
        self, folder: Path, seed: int, on_record: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.seed, self.on_record = folder, seed, on_record
        self.world = World()
        self.pictures = 0
        (folder / "img").mkdir(parents=True)

    def write(self, amounts: QuickstartAmounts) -> None:
        """Writes all files; no `text.jsonl` where it would be empty."""
        if amounts.text:
            self._file("text", amounts.text, self.text_conversation)
        self._file("captions", amounts.captions, self.caption)
        self._file("pictures", amounts.conversations, self.conversation)
        self._file("text_held_out", amounts.held_out, self.text_item)
        self._file("pictures_held_out", amounts.held_out, self.picture_item)
        self._file("mixed_held_out", amounts.held_out, self.mixed_item)

    def text_conversation(self, rng: random.Random, n: int) -> dict:
        """One exchange, or up to four in every fifth record."""
        turns = rng.randint(2, 4) if n % 5 == 4 else 1
        messages: list[dict] = []
        for _ in range(turns):
            messages += text_turn(self.world, rng, held_out=False).messages()
        return {"messages": messages}

    def caption(self, rng: random.Random, n: int) -> dict:
        """A picture and its description."""
        scene = make_scene(rng)
        return {"messages": describe(scene, rng).messages(self._save(scene))}

    def conversation(self, rng: random.Random, n: int) -> dict:
        """Questions about one picture or its description, then a text question.

        Of five records, one shows two pictures at once and one a new picture in a later turn.
        """
        messages: list[dict] = []
        if n % 5 == 0:
            scenes = two_scenes(rng)
            pictures = self._save(*scenes)
            messages += question_of_two(scenes, rng).messages(pictures)
            messages += question_of_two(scenes, rng).messages()
        else:
            for _ in range(2 if n % 5 == 1 else 1):
                scene = make_scene(rng)
                first = describe(scene, rng) if n % 5 == 2 else question(scene, rng)
                messages += first.messages(self._save(scene))
                for _ in range(1 if n % 5 == 1 else 2):
                    messages += question(scene, rng).messages()
        kind = AFTER_PICTURES[n % len(AFTER_PICTURES)]
        messages += text_turn(self.world, rng, False, kind).messages()
        return {"messages": messages}

    def text_item(self, rng: random.Random, n: int) -> dict:
        """A held-out text question, all kinds in turn."""
        turn = text_turn(self.world, rng, True, KINDS[n % len(KINDS)])
        return {"kind": turn.kind, "messages": turn.messages()}

    def picture_item(self, rng: random.Random, n: int) -> dict:
        """A question about a picture; in every third record about one of two pictures."""
        if n % 3 == 2:
            scenes = two_scenes(rng)
            pictures = self._save(*scenes)
            messages = question_of_two(scenes, rng).messages(pictures)
            return {"kind": "two pictures", "messages": messages}
        scene = make_scene(rng)
        messages = question(scene, rng).messages(self._save(scene))
        return {"kind": "one picture", "messages": messages}

    def mixed_item(self, rng: random.Random, n: int) -> dict:
        """A question about a picture, its answer, and then a held-out text question."""
        scene = make_scene(rng)
        messages = question(scene, rng).messages(self._save(scene))
        item = self.text_item(rng, n)
        return {**item, "messages": messages + item["messages"]}

    def _save(self, *scenes: Scene) -> list[str]:
        """Draws pictures; returns their paths below the folder."""
        names = []
        for scene in scenes:
            names.append(f"img/{self.pictures:05d}.png")
            self.pictures += 1
            draw(scene).save(self.folder / names[-1])
        return names

    def _file(self, name: str, amount: int, make: Callable[[random.Random, int], dict]) -> None:
        rng = random.Random(f"{name} {self.seed}")
        records = (make(rng, n) for n in range(amount))
        write_lines(self.folder / f"{name}.jsonl", self._counted(records))

    def _counted(self, records: Iterable[dict]) -> Iterable[dict]:
        for record in records:
            yield record
            self.on_record()
