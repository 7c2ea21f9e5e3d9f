"""Scores of one model: pictures, text alone and after a picture, and drift of both texts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings import WingsForCausalLM, WingsProcessor
from wings.eval.divergence import answer_log_probs, divergence_terms
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item, read_items, without_sources
from wings.eval.scoring.score import score, score_all
from wings.records.formats import text_of
from wings.upstream.cache_name import cache_name, cache_of

from .dataset import read_pairs
from .texts import LIKELIHOOD
from .turns import KNOWN, TOLD, TURN_TESTS

PICTURES = ("pictures", "style", "blank", "seen")
TESTS = (*PICTURES[:3], "text", "mixed", *TURN_TESTS)
TEXTS = ("text", "mixed")
PICTURE_TOKENS = 8  # length limit of an answer that is about a picture alone
BATCH = 64
DTYPE = torch.bfloat16
MIXED = {"mixed": "before"}  # text after a picture, in the drift and in `drift.jsonl`
KindScores = dict[str, list[int]]  # kind of question -> 0 or 1 of each of its items
Processor = ProcessorMixin | PreTrainedTokenizerBase


def measure_checkpoint(
    checkpoint: Path, llm: Path, data: Path, part: str, text_tokens: int, known: dict[str, Any]
) -> dict[str, Any]:
    """Scores of a Wings checkpoint, and its drift from `llm`.

    Args:
        checkpoint: its folder.
        llm: folder of the untouched LLM.
        data: folder of the questions.
        part: of the questions, "validation" or "test".
        text_tokens: length limit of a generated answer to a text question.
        known: what `measure_llm` found.

    Returns:
        `scores` {test: {kind: [0 or 1]}}, `same` {kind: [1 where the answer after a picture is the
        LLM's after the same exchange in words]} and `kl`, see `drift`.
    """
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=DTYPE).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    base = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    tests = {test: items for test in TESTS if (items := items_of(data, test, part))}
    found = {
        test: predict(model, processor, items, test, text_tokens) for test, items in tests.items()
    }
    scores = {test: by_kind(items, found[test]) for test, items in tests.items()}
    same: KindScores = defaultdict(list)
    expected = known[part]["answers"]
    for item, ours, theirs in zip(tests["mixed"], found["mixed"], expected, strict=True):
        same[item.kind].append(int(ours == theirs))
    kl = drift(model, processor, base, read_pairs(data / "drift.jsonl"))
    return {"scores": scores, "same": dict(same), "kl": kl}


def measure_turns(checkpoint: Path, data: Path, text_tokens: int) -> dict[str, KindScores]:
    """Scores of a Wings checkpoint on turns that need a picture and a fact, by test.

    Args:
        checkpoint: its folder.
        data: folder of the questions.
        text_tokens: length limit of an answer that needs a fact.
    """
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=DTYPE).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    scores = {}
    for test in TURN_TESTS:
        items = items_of(data, test, "test")
        scores[test] = by_kind(items, predict(model, processor, items, test, text_tokens))
    return scores


def measure_llm(
    llm: Path, processor: WingsProcessor, data: Path, text_tokens: int
) -> dict[str, Any]:
    """The untouched LLM on both parts: text, and text after the same exchange in words.

    Args:
        llm: its folder.
        processor: of a Wings model of that LLM; encodes the conversations of the drift.
        data: folder of the questions.
        text_tokens: length limit of a generated answer.

    Returns:
        per part `scores` {test: {kind: [0 or 1]}} and `answers` [str] of the mixed test; `turns`,
        scores of turns that need a picture and a fact, with the picture in words; `kl`, the floor
        of drift: what the same exchange in words does to the LLM; `guess`, see `guess`.
    """
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    known: dict[str, Any] = {}
    for part in ("validation", "test"):
        scores, answers = {}, {}
        for test in TEXTS:
            items = [without_sources(item) for item in items_of(data, test, part)]
            answers[test] = predict(model, tokenizer, items, test, text_tokens)
            scores[test] = by_kind(items, answers[test])
        known[part] = {"scores": scores, "answers": answers["mixed"]}
    known["turns"] = {
        test: by_kind(items, predict(model, tokenizer, items, test, text_tokens))
        for test in (KNOWN, TOLD)
        if (items := items_of(data, test, "test"))
    }
    pairs = read_pairs(data / "drift.jsonl")
    for pair in pairs:
        pair["before"] = [
            message | {"content": text_of(message["content"])} for message in pair["before"]
        ]
    floor = drift(model, processor, model, pairs)
    return {**known, "kl": floor, "guess": guess(data)}


def items_of(data: Path, test: str, part: str) -> list[Item]:
    """The items of a test; none where the data has no such test."""
    path = data / f"{test}_{part}.jsonl"
    return read_items(path) if path.exists() else []


def by_kind(items: Sequence[Item], answers: Sequence[str]) -> KindScores:
    """The score of every answer by its kind, in the order of the items."""
    kinds: KindScores = defaultdict(list)
    for item, value in zip(items, score_all(items, answers), strict=True):
        kinds[item.kind].append(int(value))
    return dict(kinds)


def predict(
    model: PreTrainedModel, processor: Processor, items: Sequence[Item], test: str, text_tokens: int
) -> list[str]:
    """A model's answer to every item: the likeliest choice where an item asks for it."""
    length = PICTURE_TOKENS if test in PICTURES else text_tokens
    ranked = [n for n, item in enumerate(items) if item.scoring == LIKELIHOOD]
    others = [n for n, item in enumerate(items) if item.scoring != LIKELIHOOD]
    answers = dict(
        zip(ranked, likeliest(model, processor, [items[n] for n in ranked]), strict=True)
    )
    generated = answer_items(model, processor, [items[n] for n in others], max_new_tokens=length)
    answers |= zip(others, generated, strict=True)
    return [answers[n] for n in range(len(items))]


@torch.inference_mode()
def likeliest(model: PreTrainedModel, processor: Processor, items: Sequence[Item]) -> list[str]:
    """The likeliest choice of every item, by nats a token, as `eval.loglikelihood` defines it.

    Every prompt is read once and its cache serves all choices. Batches have prompts of one length,
    so nothing is padded before a choice.
    """
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    prompts = [encode(processor, [list(item.messages)]) for item in items]
    groups = defaultdict(list)
    for n, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
        values = tuple(name for name in prompt if name.endswith("_values"))
        groups[prompt["input_ids"].shape[1], len(item.choices), values].append(n)
    answers = [""] * len(items)
    for (_, count, values), members in groups.items():
        for start in range(0, len(members), BATCH):
            chunk = members[start : start + BATCH]
            names = ("input_ids", *values)
            batch = {name: torch.cat([prompts[n][name] for n in chunk]) for name in names}
            choices = [choice for n in chunk for choice in items[n].choices]
            tokens = [tokenizer.encode(choice, add_special_tokens=False) for choice in choices]
            means = choice_means(model, batch, tokens, count).view(-1, count)
            for n, best in zip(chunk, means.argmax(1).tolist(), strict=True):
                answers[n] = items[n].choices[best]
    return answers


def choice_means(
    model: PreTrainedModel, batch: dict[str, Tensor], tokens: list[list[int]], count: int
) -> Tensor:
    """The mean log-likelihood [B * count], nats a token, of each prompt's choices.

    Args:
        model: a Wings model or its LLM.
        batch: `input_ids` [B, T] int64 without padding, and the values of items.
        tokens: of B * count choices, those of a prompt one after the other.
        count: choices of a prompt.
    """
    for name in batch:
        if name.endswith("_values"):
            batch[name] = batch[name].to(model.dtype)
    read = model(**batch, use_cache=True, logits_to_keep=1)
    cache = cache_of(read)
    assert cache is not None
    cache.batch_repeat_interleave(count)
    lengths = torch.tensor([len(ids) for ids in tokens])
    padded = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    logits = read.logits[:, -1:].repeat_interleave(count, dim=0)
    if padded.shape[1] > 1:
        # Padding after a choice is seen by none of its tokens.
        more = model(input_ids=padded[:, :-1], use_cache=True, **{cache_name(model): cache}).logits
        logits = torch.cat([logits, more], dim=1)
    log_probs = logits.float().log_softmax(-1).gather(2, padded[:, :, None])[..., 0]
    inside = torch.arange(padded.shape[1]) < lengths[:, None]
    return (log_probs * inside).sum(1) / lengths


@torch.inference_mode()
def drift(
    model: PreTrainedModel,
    processor: WingsProcessor,
    llm: PreTrainedModel,
    pairs: Sequence[Mapping[str, list[dict]]],
    before: Mapping[str, str] = MIXED,
) -> dict[str, list[float]]:
    """KL(LLM || model), nats, summed over the answer of each held-out text conversation.

    The LLM reads each conversation alone. The model reads it alone (`alone`), and after exchanges
    about a picture or a sound, which should not change its answers. `tokens` counts the answers'.

    Args:
        model: is compared.
        processor: encodes the conversations.
        llm: the untouched LLM.
        pairs: the conversation `alone`, and the exchanges.
        before: names in the result -> names of the exchanges in `pairs`.
    """
    sums: dict[str, list[float]] = {"alone": [], **{name: [] for name in before}, "tokens": []}
    for pair in pairs:
        samples = {"alone": processor.encode(pair["alone"])}
        for name, exchange in before.items():
            samples[name] = processor.encode([*pair[exchange], *pair["alone"]])
        expected, answer = answer_log_probs(llm, samples["alone"])
        sums["tokens"].append(len(answer))
        for name, sample in samples.items():
            found, _ = answer_log_probs(model, sample, len(answer))
            sums[name].append(round(divergence_terms(expected, found).sum().item(), 5))
    return sums


def guess(data: Path) -> dict[str, KindScores]:
    """Scores of the test's picture questions, by kind, if each gets its most frequent answer.

    The answers are counted in the training data. A cell with no better score has learned the
    questions, and nothing of pictures.
    """
    answers: dict[str, Counter[str]] = {}
    for name in ("align", "instruct"):
        for item in read_items(data / f"{name}.jsonl"):
            question = text_of(item.messages[-1]["content"])
            answers.setdefault(question, Counter())[item.answer] += 1
    guesses: dict[str, KindScores] = {}
    for test in ("pictures", "style"):
        for item in items_of(data, test, "test"):
            counts = answers.get(text_of(item.messages[-1]["content"]), Counter({"": 1}))
            right = int(score(item, counts.most_common(1)[0][0]))
            guesses.setdefault(test, {}).setdefault(item.kind, []).append(right)
    return guesses
