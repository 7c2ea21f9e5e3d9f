"""IIT, interleaved image and text: conversations of text and picture items, scored by their end.

`eval/iit.md` describes size, matching and scoring.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.processing.web_file import is_address
from wings.records import formats

from .items import Item
from .runner import ProgressCallback, no_progress
from .senses import SEEN, SENSES, EvalSense, names_in

# T: a text question, V: a question about a picture, or a sound. The last one is scored.
KINDS = ("T", "T,T", "T,T,T", "T,T,V", "T,V", "V")
CONTEXTS = 2  # most turns before the scored one
# Similarities are rounded, so that ties do not depend on the hardware.
DIGITS = 9


@dataclass(frozen=True)
class InterleavedConversation:
    """One conversation of the benchmark.

    Attributes:
        kind: one of `KINDS`.
        turns: of each turn the set, "text" or "pictures" (or "sounds"), and the item's index in it.
        item: messages of all turns up to the last question, and its reference answer.
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
) -> list[InterleavedConversation]:
    """Builds `size` conversations of each of the six kinds.

    Args:
        text: items without a picture or a sound.
        pictures: items with pictures, or items with sounds.
        embed: maps texts to vectors `[N, D]`; see `embed_texts`.
        size: conversations of each kind; by default the number of items of the smaller set.
        uses: how often a text item may precede scored text items, and how often scored picture
            items. So it precedes others at most that often in each kind.
        seed: draws the scored items and their order.
        progress: called with the number of scored items that have been matched.

    Raises:
        WingsError: an item of the wrong set, a system message, more conversations than items, or
            too few text items to precede them.
    """
    sense = sense_of(pictures)
    validate_turns(text, pictures, sense)
    shown, size = sense.questions, min(len(text), len(pictures)) if size is None else size
    for name, items in (("text", text), (shown, pictures)):
        if not 1 <= size <= len(items):
            raise WingsError(
                f"size is {size}, but {name} has {len(items)} items, each scored once in a kind; "
                f"give 1 to {len(items)}."
            )
    sets = {"text": text, shown: pictures}
    questions = {name: [question_of(item) for item in items] for name, items in sets.items()}
    both = embed(questions["text"] + questions[shown]).split([len(text), len(pictures)])
    vectors = dict(zip(sets, both, strict=True))
    draw = random.Random(seed)
    scored = {
        "text": draw.sample(range(len(text)), size),
        shown: draw.sample(range(len(pictures)), size),
    }
    before: dict[str, list[list[int]]] = {}
    for name, numbers in scored.items():
        before[name] = []
        progress(f"turns before {name}", 0, size)
        for chosen in choose_context(
            numbers, vectors[name], questions[name], vectors["text"], questions["text"], uses
        ):
            before[name].append(chosen)
            progress(f"turns before {name}", len(before[name]), size)
    built = []
    for kind in KINDS:
        name = "text" if kind.endswith("T") else shown
        count = kind.count(",")
        for number, chosen in zip(scored[name], before[name], strict=True):
            # The nearest is next to the question; a further turn goes in front of it.
            turns = [("text", other) for other in reversed(chosen[:count])]
            built.append(join_items(kind, [*turns, (name, number)], sets))
    return built


def choose_context(
    scored: Sequence[int],
    vectors: Tensor,
    questions: Sequence[str],
    text_vectors: Tensor,
    text_questions: Sequence[str],
    uses: int,
) -> Iterator[list[int]]:
    """Yields the `CONTEXTS` nearest text items of each scored item in turn, nearest first.

    Text items with the same words as the scored item, such as itself, or as each other are skipped.
    A text item is chosen at most `uses` times. Ties go to the earlier item.
    """
    left = [uses] * len(text_questions)
    for number in scored:
        similarity = [round(value, DIGITS) for value in (text_vectors @ vectors[number]).tolist()]
        chosen: list[int] = []
        # The sort is stable, also with reverse=True.
        for other in sorted(range(len(left)), key=similarity.__getitem__, reverse=True):
            taken = [questions[number], *(text_questions[n] for n in chosen)]
            if left[other] and text_questions[other] not in taken:
                chosen.append(other)
                left[other] -= 1
            if len(chosen) == CONTEXTS:
                break
        if len(chosen) < CONTEXTS:
            raise WingsError(
                f"{len(scored)} conversations need {CONTEXTS} other text items each, but "
                f"{len(left)} text items, each used at most {uses} times, are too few: raise uses, "
                "lower size or give more text items."
            )
        yield chosen


@torch.no_grad()
def embed_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    progress: ProgressCallback = no_progress,
) -> Tensor:
    """Mean token embeddings, centred over all texts, as unit vectors `[N, D]` float64 on the CPU.

    They need no forward pass and compare questions by words that are equal or similar to the model.
    Hidden states of causal models are too similar to each other for this, and text features of
    vision towers are limited to 77 tokens. Centring removes what all questions share, such as
    "Answer with a letter". The vector of an empty text, or of one that is like all others, is zero.

    Args:
        model: any model with token embeddings; only their table is used.
        tokenizer: of the model.
        texts: to embed.
        progress: called with the number of embedded texts.
    """
    table = model.get_input_embeddings().get_parameter("weight")
    sums = []
    for number, text in enumerate(texts, 1):
        ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)
        # float64 and a fixed order of additions: equal texts give equal vectors, so equal ties.
        sums.append(table[ids.to(table.device)].double().sum(0).cpu() / max(1, len(ids)))
        progress("embedding", number, len(texts))
    vectors = torch.stack(sums)
    return normalize(vectors - vectors.mean(0), dim=-1, eps=1e-9)


def join_items(
    kind: str, turns: Sequence[tuple[str, int]], sets: dict[str, Sequence[Item]]
) -> InterleavedConversation:
    """Joins items into one conversation; all but the last carry their reference answer."""
    messages: list[dict] = []
    for name, number in turns[:-1]:
        item = sets[name][number]
        messages += [*item.messages, {"role": "assistant", "content": item.answer}]
    name, number = turns[-1]
    last = sets[name][number]
    # A circle may be incomplete here, so its items count one by one.
    item = replace(last, kind=kind, messages=(*messages, *last.messages), circle="")
    return InterleavedConversation(kind, tuple(turns), item)


def question_of(item: Item) -> str:
    """The user's text of an item, without pictures and sounds."""
    texts = []
    for message in item.messages:
        if message["role"] != "user":
            continue
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [part["text"] for part in parts if part["type"] == "text"]
    return " ".join(" ".join(texts).split())


def sense_of(items: Sequence[Item]) -> EvalSense:
    """The sense of the first item; images if it has none."""
    names = names_in(items[0].messages) if items else ()
    return SENSES[names[0]] if names else SEEN


def validate_turns(text: Sequence[Item], pictures: Sequence[Item], sense: EvalSense = SEEN) -> None:
    """Raises a `WingsError` for the first item that cannot be a turn."""
    for name, items, expected in (("text", text, ()), (sense.questions, pictures, sense.names)):
        for number, item in enumerate(items):
            found = names_in(item.messages)
            other = next((one for one in found if one not in expected), None)
            if not found and expected:
                raise WingsError(
                    f"Item {number} of {name} has no {sense.noun}; move it to the other set."
                )
            if other:
                where = "a file of its own" if expected else "the other set"
                raise WingsError(
                    f"Item {number} of {name} has a {SENSES[other].noun}; move it to {where}."
                )
            if any(message["role"] == "system" for message in item.messages):
                raise WingsError(
                    f"Item {number} of {name} has a system message, which is not possible in the "
                    "middle of a conversation; remove it."
                )


def write_iit(conversations: Sequence[InterleavedConversation], path: str | Path) -> None:
    """Writes JSON Lines for `items.read_items` and training, atomically.

    Paths of pictures and sounds become relative to the file.
    """
    path = Path(path)
    lines = []
    for one in conversations:
        messages = tuple(relative_paths(message, path.parent) for message in one.item.messages)
        record = replace(one.item, messages=messages).record()
        record["turns"] = [list(turn) for turn in one.turns]
        lines.append(json.dumps(record, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name that nothing else has.
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        writing = Path(folder, path.name)
        writing.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
        writing.replace(path)


def relative_paths(message: dict, folder: Path) -> dict:
    """The message with paths of pictures and sounds relative to `folder`."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if (kind := part["type"]) != "text":
            source, noun = part[kind], SENSES[formats.sense_of(kind)].noun
            if not isinstance(source, str | Path):
                raise WingsError(
                    f"A {noun} is of type {type(source).__name__}, which cannot be written to a "
                    f"file of items; give the path of a file."
                )
            if not is_address(str(source)):
                part = part | {kind: os.path.relpath(source, folder)}
        parts.append(part)
    return message | {"content": parts}
