"""Scores of one model: text alone, pictures, text after a picture, and drift of both texts."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wings import WingsForCausalLM, WingsProcessor
from wings.eval.generate import answer_items
from wings.eval.items import read_items, text_of, without_pictures
from wings.eval.scoring.score import score, score_all
from wings.processing.tokenization import IGNORED

from .dataset import PARTS, read_pairs

TESTS = ("text", "mixed", "pictures")
PICTURE_TOKENS = 8  # length limit of an answer about a picture
DTYPE = torch.bfloat16
# kind of question -> scores of its items
KindScores = dict[str, list[float]]


def measure_checkpoint(checkpoint: Path, llm: Path, data: Path, text_tokens: int) -> dict[str, Any]:
    """Scores of a Wings checkpoint on both parts, and its drift from `llm`.

    Args:
        checkpoint: its folder.
        llm: folder of the untouched LLM.
        data: folder of the questions.
        text_tokens: length limit of an answer to a text question.

    Returns:
        `{"validation": {test: {kind: [scores]}}, "test": the same, "drift": {"alone", "mixed"}}`,
        the drift in nats a token.
    """
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=DTYPE).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    base = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    scores = {part: scores_of(model, processor, data, part, TESTS, text_tokens) for part in PARTS}
    return {**scores, "drift": drift(model, processor, base, read_pairs(data / "drift.jsonl"))}


def measure_llm(llm: Path, data: Path, text_tokens: int) -> dict[str, Any]:
    """Scores of the untouched LLM: text, and text after the same exchange without its picture."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    return {
        part: scores_of(model, tokenizer, data, part, TESTS[:2], text_tokens, blind=True)
        for part in PARTS
    }


def scores_of(
    model: PreTrainedModel,
    processor: Any,
    data: Path,
    part: str,
    tests: Sequence[str],
    text_tokens: int,
    blind: bool = False,
) -> dict[str, KindScores]:
    """The score of every answer, by test and kind; `blind` removes the pictures."""
    scores: dict[str, KindScores] = {}
    for test in tests:
        items = read_items(data / f"{test}_{part}.jsonl")
        if blind:
            items = [without_pictures(item) for item in items]
        length = PICTURE_TOKENS if test == "pictures" else text_tokens
        predictions = answer_items(model, processor, items, max_new_tokens=length)
        kinds = scores.setdefault(test, {})
        for item, value in zip(items, score_all(items, predictions), strict=True):
            # Whole scores as whole numbers: half the file.
            kinds.setdefault(item.kind, []).append(int(value) if value in (0, 1) else value)
    return scores


@torch.inference_mode()
def drift(
    model: WingsForCausalLM,
    processor: WingsProcessor,
    llm: PreTrainedModel,
    pairs: Sequence[dict],
) -> dict[str, float]:
    """KL(LLM || model), nats a token, on the answers of held-out text conversations.

    The LLM reads each conversation alone. The model reads it alone (`alone`), and after an exchange
    about a picture (`mixed`), which should not change its answers.
    """
    sums = {"alone": 0.0, "mixed": 0.0}
    tokens = 0
    for pair in pairs:
        alone = processor.encode(pair["alone"])
        mixed = processor.encode([*pair["before"], *pair["alone"]])
        count = int((alone["labels"][1:] != IGNORED).sum())
        tokens += count
        expected = answer_log_probs(llm, alone, count)
        for name, sample in (("alone", alone), ("mixed", mixed)):
            log_probs = answer_log_probs(model, sample, count)
            common = min(log_probs.shape[-1], expected.shape[-1])
            p, q = expected[:, :common], log_probs[:, :common]
            sums[name] += (p.exp() * (p - q)).sum().item()
    return {name: value / tokens for name, value in sums.items()}


def answer_log_probs(model: PreTrainedModel, sample: dict[str, Tensor], count: int) -> Tensor:
    """Log-probabilities [count, V] before each of the last `count` tokens of answers."""
    images = {"pixel_values": sample["pixel_values"].to(DTYPE)} if "pixel_values" in sample else {}
    logits = model(input_ids=sample["input_ids"][None], **images).logits[0]
    positions = (sample["labels"][1:] != IGNORED).nonzero()[-count:, 0]
    return logits[positions].float().log_softmax(-1)


def guess(data: Path) -> dict[str, list[int]]:
    """Scores of the test's picture questions, by kind, if each gets its most frequent answer.

    The answers are counted in the training data. A method with no better score has learned the
    questions, and nothing of pictures.
    """
    answers: dict[str, Counter[str]] = {}
    for name in ("align", "instruct"):
        for item in read_items(data / f"{name}.jsonl"):
            question = text_of(item.messages[-1]["content"])
            answers.setdefault(question, Counter())[item.answer] += 1
    scores: dict[str, list[int]] = {}
    for item in read_items(data / "pictures_test.jsonl"):
        counts = answers.get(text_of(item.messages[-1]["content"]), Counter({"": 1}))
        scores.setdefault(item.kind, []).append(int(score(item, counts.most_common(1)[0][0])))
    return scores


def percent(kinds: KindScores) -> float:
    """The mean score of a test in percent."""
    scores = all_kinds(kinds)
    return 100 * sum(scores) / len(scores)


def all_kinds(kinds: KindScores) -> list[float]:
    """The scores of all kinds, one after the other."""
    return [score for scores in kinds.values() for score in scores]
