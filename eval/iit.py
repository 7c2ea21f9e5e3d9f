"""IIT, interleaved image and text: conversations of text and picture items, the last turn scored.

The page `eval/iit.md` says what is built, how large it is and how it is scored.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from wings.errors import WingsError

from .items import Item, pictures_of

# What each turn is: T text, V a question about a picture. The last one is scored.
KINDS = ("T", "T,T", "T,T,T", "T,T,V", "T,V", "V")
CONTEXTS = 2
# Similarities nearer than this are a tie, whatever a processor's rounding says.
DIGITS = 9


@dataclass(frozen=True)
class Conversation:
    """One conversation of the benchmark.

    Attributes:
        kind: one of `KINDS`.
        turns: where each turn comes from: "text" or "pictures", and the item's place in that set.
        item: messages of all turns up to the last question, and the answer to it.
    """

    kind: str
    turns: tuple[tuple[str, int], ...]
    item: Item


def build_iit(
    text: Sequence[Item],
    pictures: Sequence[Item],
    embed: Callable[[list[str]], Tensor],
    *,
    size: int | None = None,
    uses: int = 4,
    seed: int = 0,
) -> list[Conversation]:
    """The six kinds of conversations, `size` of each.

    Args:
        text: items without a picture.
        pictures: items with one.
        embed: texts to vectors `[N, D]`; see `embeddings.py`.
        size: conversations of each kind; by default as many as the smaller set has items.
        uses: how many scored text items a text item may be chosen for, and how many scored picture
            items; so in each kind it stands before others at most so often.
        seed: which items are scored, and in which order they choose.

    Raises:
        WingsError: an item of the wrong set, a system message, more conversations than items, or
            too few text items to stand before them.
    """
    refuse_wrong_items(text, pictures)
    size = min(len(text), len(pictures)) if size is None else size
    for name, items in (("text", text), ("pictures", pictures)):
        if not 1 <= size <= len(items):
            raise WingsError(
                f"size is {size}, but there are {len(items)} items in {name}: give 1 to "
                f"{len(items)}, each is scored once in a kind"
            )
    asked = [question(item) for item in (*text, *pictures)]
    vectors = embed(asked)
    of_text, of_pictures = vectors[: len(text)], vectors[len(text) :]
    draw = random.Random(seed)
    scored = {
        "text": draw.sample(range(len(text)), size),
        "pictures": draw.sample(range(len(pictures)), size),
    }
    before = {
        name: choose(numbers, own, asked[start:], of_text, asked[: len(text)], uses)
        for (name, numbers), own, start in zip(
            scored.items(), (of_text, of_pictures), (0, len(text)), strict=True
        )
    }
    sets = {"text": text, "pictures": pictures}
    built = []
    for kind in KINDS:
        name = "text" if kind.endswith("T") else "pictures"
        count = kind.count(",")
        for number, chosen in zip(scored[name], before[name], strict=True):
            # The nearest stands next to the question, and one more turn is put in front of it.
            turns = [("text", other) for other in reversed(chosen[:count])]
            built.append(joined(kind, [*turns, (name, number)], sets))
    return built


def choose(
    scored: Sequence[int],
    vectors: Tensor,
    asked: Sequence[str],
    of_text: Tensor,
    text: Sequence[str],
    uses: int,
) -> list[list[int]]:
    """For each scored item in turn the `CONTEXTS` nearest text items, nearest first.

    One that asks the same words as the scored item, itself above all, is never chosen, nor two that
    ask the same; a text item is chosen `uses` times at most. Ties go to the earlier item.
    """
    left = [uses] * len(text)
    result = []
    for number in scored:
        near = [round(value, DIGITS) for value in (of_text @ vectors[number]).tolist()]
        chosen: list[int] = []
        for other in sorted(range(len(text)), key=lambda n, near=near: (-near[n], n)):
            said = [asked[number], *(text[n] for n in chosen)]
            if left[other] and text[other] not in said:
                chosen.append(other)
                left[other] -= 1
            if len(chosen) == CONTEXTS:
                break
        if len(chosen) < CONTEXTS:
            raise WingsError(
                f"{len(scored)} conversations need {CONTEXTS} other text items each, but the "
                f"{len(text)} there are, each used at most {uses} times, do not suffice: raise "
                f"uses, lower size or give more text items"
            )
        result.append(chosen)
    return result


def joined(
    kind: str, turns: Sequence[tuple[str, int]], sets: dict[str, Sequence[Item]]
) -> Conversation:
    """Items one after another, each but the last with its reference answer."""
    messages: list[dict] = []
    for name, number in turns[:-1]:
        item = sets[name][number]
        messages += [*item.messages, {"role": "assistant", "content": item.answer}]
    name, number = turns[-1]
    last = sets[name][number]
    return Conversation(kind, tuple(turns), Item(kind, (*messages, *last.messages), last.answer))


def question(item: Item) -> str:
    """What the user says in an item, as one text without its pictures."""
    said = []
    for message in item.messages:
        if message["role"] != "user":
            continue
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said += [part["text"] for part in parts if part["type"] == "text"]
    return " ".join(" ".join(said).split())


def refuse_wrong_items(text: Sequence[Item], pictures: Sequence[Item]) -> None:
    """Raises a `WingsError` for an item that cannot be a turn, naming it."""
    for name, items, wanted in (("text", text, False), ("pictures", pictures, True)):
        for number, item in enumerate(items):
            if bool(pictures_of(item)) != wanted:
                raise WingsError(
                    f"item {number} of {name} {'has no' if wanted else 'has a'} picture; put it "
                    f"into the other set"
                )
            if any(message["role"] == "system" for message in item.messages):
                raise WingsError(
                    f"item {number} of {name} has a system message, which cannot stand in the "
                    f"middle of a conversation; leave it out"
                )


def write_iit(conversations: Sequence[Conversation], path: str | Path) -> None:
    """JSON Lines that `items.read_items` and training read; paths of pictures become relative."""
    path = Path(path)
    lines = []
    for one in conversations:
        messages = [relative(message, path.parent) for message in one.item.messages]
        record = {
            "kind": one.kind,
            "turns": [list(turn) for turn in one.turns],
            "messages": [*messages, {"role": "assistant", "content": one.item.answer}],
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def relative(message: dict, folder: Path) -> dict:
    """The message with paths of pictures as seen from `folder`."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "image":
            if not isinstance(part["image"], str | Path):
                raise WingsError(
                    f"a picture is a {type(part['image']).__name__}, which no file of items can "
                    f"hold; give the path of an image file"
                )
            part = part | {"image": os.path.relpath(part["image"], folder)}
        parts.append(part)
    return message | {"content": parts}
