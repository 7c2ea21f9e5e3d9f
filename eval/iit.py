"""IIT, interleaved image and text: conversations of text and picture items, the last turn scored.

The page `eval/iit.md` says what is built, how large it is and how it is scored.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from wings.errors import WingsError

from .items import Item, pictures_of
from .runner import ProgressCallback, no_progress

# What each turn is: T text, V a question about a picture. The last one is scored.
KINDS = ("T", "T,T", "T,T,T", "T,T,V", "T,V", "V")
CONTEXTS = 2
# Similarities nearer than this are a tie, whatever a processor's rounding says.
DIGITS = 9


@dataclass(frozen=True)
class IITConversation:
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
    progress: ProgressCallback = no_progress,
) -> list[IITConversation]:
    """The six kinds of conversations, `size` of each.

    Args:
        text: items without a picture.
        pictures: items with one.
        embed: texts to vectors `[N, D]`; see `embeddings.py`.
        size: conversations of each kind; by default as many as the smaller set has items.
        uses: how many scored text items a text item may be chosen for, and how many scored picture
            items; so in each kind it stands before others at most so often.
        seed: which items are scored, and in which order they choose.
        tell: is told how many of the scored items have chosen.

    Raises:
        WingsError: an item of the wrong set, a system message, more conversations than items, or
            too few text items to stand before them.
    """
    validate_turns(text, pictures)
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
    before = {}
    for (name, numbers), own, start in zip(
        scored.items(), (of_text, of_pictures), (0, len(text)), strict=True
    ):

        def told(done: int, name: str = name) -> None:
            progress(f"turns before {name}", done, size)

        told(0)
        before[name] = choose(numbers, own, asked[start:], of_text, asked[: len(text)], uses, told)
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
    told: Callable[[int], None],
) -> list[list[int]]:
    """For each scored item in turn the `CONTEXTS` nearest text items, nearest first.

    One that asks the same words as the scored item, itself above all, is never chosen, nor two that
    ask the same; a text item is chosen `uses` times at most. Ties go to the earlier item. `told` is
    called with the number of items that have chosen.
    """
    left = [uses] * len(text)
    result = []
    for number in scored:
        near = [round(value, DIGITS) for value in (of_text @ vectors[number]).tolist()]
        chosen: list[int] = []
        # The sort is stable, so of a tie the earlier item stays the earlier one.
        for other in sorted(range(len(text)), key=near.__getitem__, reverse=True):
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
        told(len(result))
    return result


def joined(
    kind: str, turns: Sequence[tuple[str, int]], sets: dict[str, Sequence[Item]]
) -> IITConversation:
    """Items one after another, each but the last with its reference answer; scored as the last."""
    messages: list[dict] = []
    for name, number in turns[:-1]:
        item = sets[name][number]
        messages += [*item.messages, {"role": "assistant", "content": item.answer}]
    name, number = turns[-1]
    last = sets[name][number]
    # Of a circle not all items need be here.
    asked = replace(last, kind=kind, messages=(*messages, *last.messages), circle="")
    return IITConversation(kind, tuple(turns), asked)


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


def validate_turns(text: Sequence[Item], pictures: Sequence[Item]) -> None:
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


def write_iit(conversations: Sequence[IITConversation], path: str | Path) -> None:
    """JSON Lines that `items.read_items` and training read; paths of pictures become relative.

    The file is never half there.
    """
    path = Path(path)
    lines = []
    for one in conversations:
        messages = tuple(relative(message, path.parent) for message in one.item.messages)
        record = replace(one.item, messages=messages).record()
        record["turns"] = [list(turn) for turn in one.turns]
        lines.append(json.dumps(record, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"writing-{path.name}")
    writing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    writing.replace(path)


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
            # A picture within the record lies in no folder.
            if not str(part["image"]).startswith("data:"):
                part = part | {"image": os.path.relpath(part["image"], folder)}
        parts.append(part)
    return message | {"content": parts}
