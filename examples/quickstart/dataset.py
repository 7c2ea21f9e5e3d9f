"""The quickstart's files: JSON Lines of chat messages and PNG, as `wings.train` reads them."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from .scenes import Scene, describe, draw, make_scene, question, question_of_two, two_scenes
from .size import Amounts
from .texts import KINDS, World, text_turn

# Kinds of text that training asks for after a picture. Numbers are not among them: there is always
# more to know than could be repeated, and what was not repeated is scored, too.
AFTER_PICTURES = ("facts", "instructions", "reading")


class Writer:
    """Writes the files under `folder`: `text.jsonl`, `captions.jsonl`, ... and `img/*.png`.

    Args:
        folder: created; holds every path that the records name.
        seed: makes everything; each file has a stream of its own, so amounts do not disturb one
            another.
        on_record: called after every record.
    """

    def __init__(
        self, folder: Path, seed: int, on_record: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.on_record = on_record
        self.world = World()
        self.pictures = 0
        (folder / "img").mkdir(parents=True)

    def write(self, amounts: Amounts) -> None:
        """All files; no `text.jsonl` where it would be empty."""
        if amounts.text:
            self._file("text", amounts.text, self.text_conversation)
        self._file("captions", amounts.captions, self.caption)
        self._file("pictures", amounts.conversations, self.conversation)
        self._file("text_held_out", amounts.held_out, self.text_item)
        self._file("pictures_held_out", amounts.held_out, self.picture_item)
        self._file("mixed_held_out", amounts.held_out, self.mixed_item)

    def text_conversation(self, rng: random.Random, n: int) -> dict:
        """One exchange, or in every fifth record up to four."""
        turns = rng.randint(2, 4) if n % 5 == 4 else 1
        messages: list[dict] = []
        for _ in range(turns):
            messages += text_turn(self.world, rng, held_out=False).messages()
        return {"messages": messages}

    def caption(self, rng: random.Random, n: int) -> dict:
        """A picture and what is in it."""
        scene = make_scene(rng)
        return {"messages": describe(scene, rng).messages((self._picture(scene),))}

    def conversation(self, rng: random.Random, n: int) -> dict:
        """Questions about one picture (or what is in it), and at the end one about plain text.

        Of five records, one shows two pictures at once and one a new picture in a later turn.
        """
        messages: list[dict] = []
        if n % 5 == 0:
            scenes = two_scenes(rng)
            pictures = tuple(self._picture(scene) for scene in scenes)
            messages += question_of_two(scenes, rng).messages(pictures)
            messages += question_of_two(scenes, rng).messages()
        else:
            for _ in range(2 if n % 5 == 1 else 1):
                scene = make_scene(rng)
                first = describe(scene, rng) if n % 5 == 2 else question(scene, rng)
                messages += first.messages((self._picture(scene),))
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
            pictures = tuple(self._picture(scene) for scene in scenes)
            return {
                "kind": "two pictures",
                "messages": question_of_two(scenes, rng).messages(pictures),
            }
        scene = make_scene(rng)
        messages = question(scene, rng).messages((self._picture(scene),))
        return {"kind": "one picture", "messages": messages}

    def mixed_item(self, rng: random.Random, n: int) -> dict:
        """A question about a picture, its answer, and then a held-out text question."""
        scene = make_scene(rng)
        messages = question(scene, rng).messages((self._picture(scene),))
        turn = text_turn(self.world, rng, True, KINDS[n % len(KINDS)])
        return {"kind": turn.kind, "messages": messages + turn.messages()}

    def _picture(self, scene: Scene) -> dict:
        name = f"img/{self.pictures:05d}.png"
        self.pictures += 1
        draw(scene).save(self.folder / name)
        return {"type": "image", "image": name}

    def _file(self, name: str, amount: int, make: Callable[[random.Random, int], dict]) -> None:
        rng = random.Random(f"{name} {self.seed}")
        write_lines(
            self.folder / f"{name}.jsonl", self._counted(make(rng, n) for n in range(amount))
        )

    def _counted(self, records: Iterable[dict]) -> Iterable[dict]:
        for record in records:
            yield record
            self.on_record()


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict]:
    """What `write_lines` wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
