"""The scores of one model: text alone, pictures, text after a picture, and drift of both texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wings import WingsForCausalLM, WingsProcessor
from wings.eval.generate import answer_items
from wings.eval.items import read_items, without_pictures
from wings.eval.scoring.score import score_all
from wings.processing.tokenization import IGNORED

from .dataset import PARTS, read_pairs
from .sizes import SENTENCES

TESTS = ("text", "mixed", "pictures")
WORDS = 8  # tokens of an answer about a picture
DTYPE = torch.bfloat16


def measure_checkpoint(
    checkpoint: Path, llm: Path, data: Path, sentences: int = SENTENCES
) -> dict[str, Any]:
    """Scores of a Wings checkpoint on both parts, and its drift from `llm`.

    Args:
        checkpoint: its folder.
        llm: folder of the untouched LLM.
        data: folder of the questions.
        sentences: tokens after which an answer to a text question is cut.

    Returns:
        `{"validation": {test: {kind: [marks]}}, "test": the same, "drift": {"alone", "mixed"}}`,
        the drift in nats a token.
    """
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=DTYPE).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    bare = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    scores = {
        part: scores_of(model, processor, data, part, TESTS, sentences=sentences) for part in PARTS
    }
    return {**scores, "drift": drift(model, processor, bare, read_pairs(data / "drift.jsonl"))}


def measure_llm(llm: Path, data: Path, sentences: int = SENTENCES) -> dict[str, Any]:
    """Scores of the untouched LLM: text, and text after the same exchange without its picture."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    return {
        part: scores_of(model, tokenizer, data, part, TESTS[:2], True, sentences) for part in PARTS
    }


def scores_of(
    model: PreTrainedModel,
    processor: Any,
    data: Path,
    part: str,
    tests: Sequence[str],
    blind: bool = False,
    sentences: int = SENTENCES,
) -> dict[str, dict[str, list[float]]]:
    """What every answer is worth, by test and kind; `blind` takes the pictures away."""
    found: dict[str, dict[str, list[float]]] = {}
    for test in tests:
        items = read_items(data / f"{test}_{part}.jsonl")
        if blind:
            items = [without_pictures(item) for item in items]
        length = WORDS if test == "pictures" else sentences
        said = answer_items(model, processor, items, max_new_tokens=length)
        kinds = found.setdefault(test, {})
        for item, mark in zip(items, score_all(items, said), strict=True):
            # Whole marks as whole numbers: half the file.
            kinds.setdefault(item.kind, []).append(int(mark) if mark in (0, 1) else mark)
    return found


@torch.inference_mode()
def drift(
    model: WingsForCausalLM,
    processor: WingsProcessor,
    llm: PreTrainedModel,
    pairs: Sequence[dict],
) -> dict[str, float]:
    """KL(LLM || model), nats a token, on the answers of held-out text conversations.

    The LLM reads each conversation alone. The model reads it alone (`alone`), and behind an
    exchange about a picture (`mixed`): what it says there should be what the LLM says without.
    """
    sums = {"alone": 0.0, "mixed": 0.0}
    tokens = 0
    for pair in pairs:
        alone = processor.encode(pair["alone"])
        mixed = processor.encode([*pair["before"], *pair["alone"]])
        count = int((alone["labels"][1:] != IGNORED).sum())
        tokens += count
        expected = answer_logs(llm, alone, count)
        for name, row in (("alone", alone), ("mixed", mixed)):
            logs = answer_logs(model, row, count)
            common = min(logs.shape[-1], expected.shape[-1])
            p, q = expected[:, :common], logs[:, :common]
            sums[name] += (p.exp() * (p - q)).sum().item()
    return {name: value / tokens for name, value in sums.items()}


def answer_logs(model: PreTrainedModel, row: dict[str, Tensor], count: int) -> Tensor:
    """Log-probabilities `[count, V]` before each of the last `count` tokens that are answers."""
    images = {} if "pixel_values" not in row else {"pixel_values": row["pixel_values"].to(DTYPE)}
    logits = model(input_ids=row["input_ids"][None], **images).logits[0]
    places = (row["labels"][1:] != IGNORED).nonzero()[-count:, 0]
    return logits[places].float().log_softmax(-1)


def percent(kinds: dict[str, list[float]]) -> float:
    """What all answers of a test are worth together."""
    every = of_kinds(kinds)
    return 100 * sum(every) / len(every)


def of_kinds(kinds: dict[str, list[float]]) -> list[float]:
    """The marks of all kinds, one after the other."""
    return [mark for of in kinds.values() for mark in of]
