"""Scores of a model trained on drawings, and of the same LLM without the picture."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
from wings.eval.items import Item, pictures_of, read_items, without_sources
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.scoring.checks import mentions
from wings.processing.processor import WingsProcessor
from wings.records.formats import text_of

SAMPLES = 6
BLANK = "#dddddd"


def is_right(item: Item, prediction: str, groups: Sequence[str]) -> bool:
    """Returns whether the first group in an answer, or any mention of a name, is right.

    More lenient than an exact match, because the LLM without a picture answers in sentences.
    """
    if item.kind != "group":
        return mentions(prediction, item.answer)
    matches = {group: re.search(rf"\b{group}\b", prediction.lower()) for group in groups}
    starts = {group: match.start() for group, match in matches.items() if match}
    return bool(starts) and min(starts, key=starts.__getitem__) == item.answer


def count(
    items: Sequence[Item], predictions: Sequence[str], groups: Sequence[str]
) -> dict[str, Accuracy]:
    """Scores by kind; groups also one by one, as `group/animal`."""
    scores: dict[str, Accuracy] = {}
    for item, prediction in zip(items, predictions, strict=True):
        score = Accuracy(int(is_right(item, prediction, groups)), 1)
        kinds = [item.kind, f"group/{item.answer}"] if item.kind == "group" else [item.kind]
        for kind in kinds:
            scores[kind] = scores.get(kind, Accuracy(0, 0)) + score
    return scores


def with_picture(item: Item, picture: str) -> Item:
    """The item with `picture` before every question that has pictures."""
    messages = []
    for message in item.messages:
        if not isinstance(parts := message["content"], str):
            text = [part for part in parts if part["type"] == "text"]
            message = {**message, "content": [{"type": "image", "image": picture}, *text]}
        messages.append(message)
    return replace(item, messages=tuple(messages))


def answers(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    items: Sequence[Item],
) -> list[str]:
    """Greedy answers; items with equal messages are answered once."""
    distinct = {json.dumps(item.messages): item for item in items}
    predictions = answer_items(
        model, processor, list(distinct.values()), batch_size=16, max_new_tokens=24
    )
    known = dict(zip(distinct, predictions, strict=True))
    return [known[json.dumps(item.messages)] for item in items]


@torch.inference_mode()
def equal_logits(
    model: WingsForCausalLM, llm: PreTrainedModel, processor: WingsProcessor, items: Sequence[Item]
) -> Accuracy:
    """Number of text conversations with bitwise the untouched LLM's logits, each run alone."""
    equal = 0
    for item in items:
        batch = encode(processor, [list(item.messages)])
        equal += torch.equal(model(**batch).logits, llm(**batch).logits)
    return Accuracy(equal, len(items))


def score_folder(folder: Path, verbose: bool = True) -> dict:
    """Scores `instruct/` of a folder on its `data/test.jsonl`; returns the numbers of its page.

    Raises:
        WingsError: the folder has no trained model or no test.
    """
    checkpoint = folder / "instruct"
    if not (checkpoint / "config.json").exists():
        raise WingsError(
            f"'{checkpoint}' has no trained model; run: wings emoji --output {folder}."
        )
    items = read_items(folder / "data" / "test.jsonl")
    names = sorted({item.kind for item in items})
    kinds = {kind: [item for item in items if item.kind == kind] for kind in names}
    groups = sorted({item.answer for item in kinds["group"]})
    pictured, texts = [*kinds["name"], *kinds["group"]], [*kinds["text"], *kinds["mixed"]]
    model = WingsForCausalLM.from_pretrained(checkpoint).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    llm = AutoModelForCausalLM.from_pretrained(folder / "weights" / "llm").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights" / "llm")
    blank = folder / "blank.png"
    Image.new("RGB", (224, 224), BLANK).save(blank)
    if verbose:
        print(f"scoring {len(items)} questions")
    predictions = answers(model, processor, items)
    blanked = answers(model, processor, [with_picture(item, str(blank)) for item in pictured])
    blind = [*pictured, *texts]
    llm_predictions = [
        *answers(llm, tokenizer, [without_sources(item) for item in pictured]),
        *answers(llm, tokenizer, [without_sources(item) for item in texts]),
    ]
    scores = {
        "wings": count(items, predictions, groups),
        "wings, blank picture": count(pictured, blanked, groups),
        "llm": count(blind, llm_predictions, groups),
    }
    prediction_of = dict(zip(map(id, items), predictions, strict=True))
    llm_prediction_of = dict(zip(map(id, blind), llm_predictions, strict=True))
    twins = zip(kinds["mixed"], kinds["text"], strict=True)
    unchanged = sum(prediction_of[id(item)] == llm_prediction_of[id(twin)] for item, twin in twins)
    most = Counter(item.answer for item in kinds["group"]).most_common(1)[0][1]
    return {
        "scores": {
            name: {kind: as_dict(score) for kind, score in sorted(of_kinds.items())}
            for name, of_kinds in scores.items()
        },
        "chance": {
            "group": 100 / len(groups),
            "name": 100 / len({item.answer for item in kinds["name"]}),
        },
        "most frequent": {"group": as_dict(Accuracy(most, len(kinds["group"])))},
        "text logits bitwise equal": as_dict(equal_logits(model, llm, processor, kinds["text"])),
        "mixed answer equals the LLM's alone": as_dict(Accuracy(unchanged, len(kinds["mixed"]))),
        "samples": {
            kind: [
                {
                    "asked": text_of(item.messages[-1]["content"]),
                    "said": prediction_of[id(item)],
                    "right answer": item.answer,
                    "picture": next((Path(picture).name for picture in pictures_of(item)), None),
                }
                for item in members[:: max(1, len(members) // SAMPLES)][:SAMPLES]
            ]
            for kind, members in kinds.items()
        },
        "confusions": Counter(
            f"{item.answer} -> {prediction_of[id(item)]}"
            for item in kinds["group"]
            if not is_right(item, prediction_of[id(item)], groups)
        ).most_common(8),
    }


def as_dict(score: Accuracy) -> dict:
    """A score as plain numbers."""
    low, high = score.interval
    return {
        "right": score.right,
        "of": score.total,
        "percent": round(score.percent, 1),
        "interval": [round(low, 1), round(high, 1)],
    }
