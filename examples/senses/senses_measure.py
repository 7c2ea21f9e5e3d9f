"""Scores of one model: pictures, sounds, both together, text alone and after each, and drift."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wings import WingsProcessor
from wings.eval.items import Item, read_items, without_sources
from wings.examples.experiment.measure import DTYPE, KindScores, by_kind, drift, predict
from wings.records.formats import text_of

from .both_questions import BOTH, TOLD, UNHEARD, UNSEEN
from .rows import AUDIO, IMAGE
from .senses_data import PICTURE, SOUND, read_pairs

TEXT = "text"
AFTER = {IMAGE: f"after_{PICTURE}", AUDIO: f"after_{SOUND}"}
# Name of each sense's test, and of its exchange in `drift.jsonl`.
OF_SENSE = {IMAGE: "pictures", AUDIO: "sounds"}
EXCHANGES = {IMAGE: PICTURE, AUDIO: SOUND}
TEXTS = (TEXT, *AFTER.values())
TESTS = (*OF_SENSE.values(), BOTH, UNSEEN, UNHEARD, *TEXTS)
SENSE_TOKENS = 8  # length limit of an answer that needs a sense


def measure_model(
    model: PreTrainedModel, processor: WingsProcessor, llm: Path, data: Path,
    senses: Sequence[str], text_tokens: int,
) -> dict[str, Any]:  # fmt: skip
    """Scores of a Wings model, and its drift from the untouched LLM.

    Args:
        model: in evaluation mode.
        processor: of the model.
        llm: folder of the untouched LLM.
        data: folder of the questions.
        senses: that the model has.
        text_tokens: length limit of a generated answer to a text question.

    Returns:
        `scores` {test: {kind: [0 or 1]}}; `kl`, see `drift`, alone and after each sense.
    """
    tests = [TEXT, *(test for one in senses for test in (OF_SENSE[one], AFTER[one]))]
    tests += [BOTH, UNSEEN, UNHEARD] if len(senses) > 1 else []
    scores = {}
    for test in tests:
        items = read_items(data / f"{test}.jsonl")
        scores[test] = answered(model, processor, items, test, text_tokens)
    base = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    before = {AFTER[one]: EXCHANGES[one] for one in senses}
    kl = drift(model, processor, base, read_pairs(data / "drift.jsonl"), before)
    return {"scores": scores, "kl": kl}


def measure_untouched(
    llm: Path, processor: WingsProcessor, data: Path, text_tokens: int
) -> dict[str, Any]:
    """The untouched LLM, for which exchanges are in words and questions have no items.

    Args:
        llm: its folder.
        processor: of a Wings model of that LLM; encodes the conversations of the drift.
        data: folder of the questions.
        text_tokens: length limit of a generated answer to a text question.

    Returns:
        `test`: `scores` {test: {kind: [0 or 1]}} of text; `told` and `blind`: the same of the
        tests of senses, with the items in words and without them; `kl`, the floor of drift.
    """
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=DTYPE).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)

    def ask(name: str, test: str) -> KindScores:
        items = [without_sources(item) for item in read_items(data / f"{name}.jsonl")]
        return answered(model, tokenizer, items, test, text_tokens)

    found: dict[str, Any] = {"test": {"scores": {test: ask(test, test) for test in TEXTS}}}
    found["told"] = {test: ask(f"{test}_told", test) for test in OF_SENSE.values()}
    found["told"][BOTH] = ask(TOLD, BOTH)
    found["blind"] = {test: ask(test, test) for test in (*OF_SENSE.values(), BOTH)}
    pairs = read_pairs(data / "drift.jsonl")
    for pair in pairs:
        for name in EXCHANGES.values():
            pair[name] = [turn | {"content": text_of(turn["content"])} for turn in pair[name]]
    before = {AFTER[sense]: exchange for sense, exchange in EXCHANGES.items()}
    return {**found, "kl": drift(model, processor, model, pairs, before)}


def answered(
    model: PreTrainedModel, processor: Any, items: Sequence[Item], test: str, text_tokens: int
) -> KindScores:
    """The score of a model's answer to every item, by kind."""
    limit = text_tokens if test in TEXTS else SENSE_TOKENS
    return by_kind(items, predict(model, processor, items, test, limit))
