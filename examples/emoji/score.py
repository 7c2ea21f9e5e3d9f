"""What a model trained on drawings can say, beside the same LLM without the picture.

`python -m wings.examples.emoji.score FOLDER` scores the folder that `wings emoji` trains in.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings import WingsForCausalLM
from wings.errors import WingsError
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item, read_items
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.scoring.checks import mentions
from wings.processing.processor import WingsProcessor

SAMPLES = 6
BLANK = "#dddddd"
Tell = Callable[[str], None]


def is_right(item: Item, said: str, groups: Sequence[str]) -> bool:
    """Whether an answer is right: the first group that it names, else the reference somewhere in
    it.

    More lenient than word for word, because the LLM without a picture talks in sentences.
    """
    if item.kind != "group":
        return mentions(said, item.answer)
    places = {group: re.search(rf"\b{group}\b", said.lower()) for group in groups}
    found = {group: match.start() for group, match in places.items() if match}
    return bool(found) and min(found, key=found.__getitem__) == item.answer


def count(items: Sequence[Item], said: Sequence[str], groups: Sequence[str]) -> dict[str, Accuracy]:
    """Scores by kind; groups also one by one, as `group/animal`."""
    scores: dict[str, Accuracy] = {}
    for item, text in zip(items, said, strict=True):
        one = Accuracy(int(is_right(item, text, groups)), 1)
        kinds = [item.kind, f"group/{item.answer}"] if item.kind == "group" else [item.kind]
        for kind in kinds:
            scores[kind] = scores.get(kind, Accuracy(0, 0)) + one
    return scores


def replaced(item: Item, picture: str | None) -> Item:
    """The item with another picture in place of each of its own, or with none."""
    messages = []
    for message in item.messages:
        parts = message["content"]
        if not isinstance(parts, str):
            text = [part for part in parts if part["type"] == "text"]
            parts = [{"type": "image", "image": picture}, *text] if picture else text[0]["text"]
        messages.append({**message, "content": parts})
    return Item(item.kind, tuple(messages), item.answer)


def constant_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
    picture: str | None,
) -> list[str]:
    """Answers with all pictures replaced or gone: items that read the same are answered once."""
    bare = [replaced(item, picture) for item in items]
    different = {json.dumps(item.messages): item for item in bare}
    said = answer_items(
        model, processor, list(different.values()), batch_size=16, max_new_tokens=24
    )
    known = dict(zip(different, said, strict=True))
    return [known[json.dumps(item.messages)] for item in bare]


@torch.inference_mode()
def equal_logits(
    model: WingsForCausalLM, bare: PreTrainedModel, processor: WingsProcessor, items: Sequence[Item]
) -> Accuracy:
    """How many text conversations give bitwise the untouched LLM's logits, one conversation at a
    time.
    """
    same = 0
    for item in items:
        batch = encode(processor, [list(item.messages)])
        same += torch.equal(model(**batch).logits, bare(**batch).logits)
    return Accuracy(same, len(items))


def score_folder(folder: Path, tell: Tell = print) -> dict:
    """Scores `instruct/` of a folder on its `data/test.jsonl`; returns plain figures.

    Raises:
        WingsError: the folder has no trained model or no test.
    """
    checkpoint = folder / "instruct"
    if not (checkpoint / "config.json").exists():
        raise WingsError(f"{checkpoint} holds no trained model; run wings emoji --output {folder}")
    items = read_items(folder / "data" / "test.jsonl")
    names = sorted({item.kind for item in items})
    kinds = {kind: [item for item in items if item.kind == kind] for kind in names}
    groups = sorted({item.answer for item in kinds["group"]})
    seen = [*kinds["name"], *kinds["group"]]
    model = WingsForCausalLM.from_pretrained(checkpoint)
    processor = WingsProcessor.from_pretrained(checkpoint)
    bare = AutoModelForCausalLM.from_pretrained(folder / "weights" / "llm").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights" / "llm")
    model.eval()

    blank = folder / "blank.png"
    Image.new("RGB", (224, 224), BLANK).save(blank)
    tell(f"scoring {len(items)} questions")
    said = answer_items(model, processor, items, batch_size=16, max_new_tokens=24)
    text = [*kinds["text"], *kinds["mixed"]]
    alone = answer_items(
        bare, tokenizer, [replaced(item, None) for item in text], batch_size=16, max_new_tokens=24
    )
    answers = dict(zip(map(id, items), said, strict=True))
    untouched = dict(zip(map(id, text), alone, strict=True))
    rows = {
        "wings": count(items, said, groups),
        "wings, blank picture": count(
            seen, constant_answers(model, processor, seen, str(blank)), groups
        ),
        "llm": count(
            [*seen, *text], [*constant_answers(bare, tokenizer, seen, None), *alone], groups
        ),
    }
    twins = zip(kinds["mixed"], kinds["text"], strict=True)
    unchanged = sum(answers[id(item)] == untouched[id(twin)] for item, twin in twins)
    most = Counter(item.answer for item in kinds["group"]).most_common(1)[0][1]
    return {
        "scores": {
            row: {kind: plain(score) for kind, score in sorted(of.items())}
            for row, of in rows.items()
        },
        "chance": {
            "group": 100 / len(groups),
            "name": 100 / len({i.answer for i in kinds["name"]}),
        },
        "most frequent": {"group": plain(Accuracy(most, len(kinds["group"])))},
        "text logits bitwise equal": plain(equal_logits(model, bare, processor, kinds["text"])),
        "mixed answer equals the LLM's alone": plain(Accuracy(unchanged, len(kinds["mixed"]))),
        "samples": {
            kind: [
                {
                    "asked": asked(item),
                    "said": answers[id(item)],
                    "right answer": item.answer,
                    "picture": picture(item),
                }
                for item in members[:: max(1, len(members) // SAMPLES)][:SAMPLES]
            ]
            for kind, members in kinds.items()
        },
        "confusions": Counter(
            f"{item.answer} -> {answers[id(item)]}"
            for item in kinds["group"]
            if not is_right(item, answers[id(item)], groups)
        ).most_common(8),
    }


def plain(score: Accuracy) -> dict:
    """A score as a mapping of numbers."""
    low, high = score.interval
    return {
        "right": score.right,
        "of": score.total,
        "percent": round(score.percent, 1),
        "interval": [round(low, 1), round(high, 1)],
    }


def asked(item: Item) -> str:
    """The last question as text."""
    content = item.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def picture(item: Item) -> str | None:
    """The file name of the first picture, without its folder."""
    for message in item.messages:
        for part in () if isinstance(message["content"], str) else message["content"]:
            if part["type"] == "image":
                return Path(part["image"]).name
    return None


if __name__ == "__main__":
    print(json.dumps(score_folder(Path(sys.argv[1]), lambda line: None), indent=1))
