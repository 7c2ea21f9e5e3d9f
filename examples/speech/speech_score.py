"""Scores of a model that hears, of the same LLM without the sound, and with its words."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from wings import WingsForCausalLM, WingsProcessor
from wings.eval.items import Item, read_items, without_sources
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.scoring.checks import mentions
from wings.examples.emoji.score import answers, as_dict, equal_logits
from wings.records.formats import text_of

from .records import KINDS
from .speech_data import SILENCE

WORDS, DEAF, SILENT, HEARS = "words", "llm", "silence", "wings"
SAMPLES = 8


def with_sound(item: Item, sound: str) -> Item:
    """The item with `sound` instead of each of its own sounds."""
    messages = []
    for message in item.messages:
        if not isinstance(parts := message["content"], str):
            parts = [p | {"audio": sound} if p["type"] == "audio" else p for p in parts]
            message = {**message, "content": parts}
        messages.append(message)
    return replace(item, messages=tuple(messages))


def count(items: Sequence[Item], predictions: Sequence[str]) -> dict[str, Accuracy]:
    """Scores by kind: an answer is right if it mentions the reference as a word."""
    scores: dict[str, Accuracy] = {}
    for item, prediction in zip(items, predictions, strict=True):
        right = Accuracy(int(mentions(prediction, item.answer)), 1)
        scores[item.kind] = scores.get(item.kind, Accuracy(0, 0)) + right
    return scores


def score_speech(folder: Path) -> dict[str, Any]:
    """Scores `instruct/` of a folder on its `data`; returns the figures of its page.

    Args:
        folder: of a run, with both stages trained.
    """
    data = folder / "data"
    heard, said, texts, mixed = (
        read_items(data / f"{name}.jsonl") for name in ("test", "ceiling", "text", "mixed")
    )
    model = WingsForCausalLM.from_pretrained(folder / "instruct").eval()
    processor = WingsProcessor.from_pretrained(folder / "instruct")
    llm = AutoModelForCausalLM.from_pretrained(folder / "weights" / "llm").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights" / "llm")
    silent = [with_sound(item, str(data / SILENCE)) for item in heard]
    found = answers(model, processor, [*heard, *texts, *mixed])
    of_heard, of_texts = found[: len(heard)], found[len(heard) : len(heard) + len(texts)]
    of_mixed = found[len(heard) + len(texts) :]
    deaf = [without_sources(item) for item in (*heard, *texts, *mixed)]
    of_llm = answers(llm, tokenizer, deaf)
    scores = {
        DEAF: count(deaf, of_llm),
        SILENT: count(silent, answers(model, processor, silent)),
        HEARS: count([*heard, *texts, *mixed], found),
        WORDS: count(said, answers(llm, tokenizer, said)),
    }
    alone = of_llm[len(heard) : len(heard) + len(texts)]
    unchanged = sum(ours == theirs for ours, theirs in zip(of_mixed, alone, strict=True))
    same = sum(ours == theirs for ours, theirs in zip(of_texts, alone, strict=True))
    return {
        "scores": {
            name: {kind: as_dict(score) for kind, score in of_kinds.items()}
            for name, of_kinds in scores.items()
        },
        "text logits bitwise equal": as_dict(equal_logits(model, llm, processor, texts)),
        "text answers equal": as_dict(Accuracy(same, len(texts))),
        "answers after a sound equal the LLM's alone": as_dict(Accuracy(unchanged, len(mixed))),
        "samples": {kind: samples(kind, heard, said, of_heard) for kind in KINDS},
    }


def samples(
    kind: str, heard: Sequence[Item], said: Sequence[Item], predictions: Sequence[str]
) -> list[dict[str, str]]:
    """Some answers of a kind, at equal distances."""
    of_kind = [
        {
            "heard": text_of(words.messages[-1]["content"]),
            "answer": prediction,
            "reference": item.answer,
        }
        for item, words, prediction in zip(heard, said, predictions, strict=True)
        if item.kind == kind
    ]
    return of_kind[:: max(1, len(of_kind) // SAMPLES)][:SAMPLES]
