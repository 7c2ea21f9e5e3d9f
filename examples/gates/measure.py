"""Measures one checkpoint of the gate experiment with every gate that is put on it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from wings.eval.divergence import divergence
from wings.eval.fingerprint import model_fingerprint
from wings.eval.gates.gate_curve import GateCurve, measure_curve
from wings.eval.gates.gate_setting import GateSetting, all_settings
from wings.eval.gates.text_turns_off import (
    answers_with_last_turn_off,
    last_turn,
    learners_off_from,
)
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item, question_alone, read_items
from wings.eval.models import EvalModel
from wings.eval.runner import EvalRunner
from wings.eval.scoring.score import is_exact, score
from wings.eval.sense_drift import item_log_probs
from wings.examples.conversations import read_lines
from wings.layers.lorra import LoRRALearner
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

from .trainings import GATES

BATCH, LONGEST = 64, 32
MASS_ITEMS = 60
CONSTANTS = (0.25, 0.5, 0.75)
TESTS = ("pictures", "mixed", "follow_ups")


@dataclass(frozen=True)
class Questions:
    """The test's items, and the LLM's results on text after the same exchange in words.

    Attributes:
        tests: items by test.
        llm: the untouched LLM.
        answers: its answers after the exchange in words, the picture described.
        alone: its log-probabilities on the tokens of each right answer, asked alone, `[n, V]`.
        floor: KL from `alone` to the LLM after the exchange in words, summed over an answer.
    """

    tests: dict[str, list[Item]]
    llm: EvalModel
    answers: list[str]
    alone: list[Tensor]
    floor: list[float]

    @classmethod
    def read(cls, folder: Path, llm: Path) -> "Questions":
        """Reads the items in `folder` and asks the LLM."""
        tests = {name: read_items(folder / f"{name}.jsonl") for name in TESTS}
        records = read_lines(folder / "mixed.jsonl")
        words = [
            Item(record["kind"], tuple(record["words"][:-1]), record["words"][-1]["content"])
            for record in records
        ]
        model = AutoModelForCausalLM.from_pretrained(llm).eval()
        tokenizer = AutoTokenizer.from_pretrained(llm)
        base = EvalModel(str(llm), "llm", model, tokenizer, model_fingerprint(model, tokenizer))
        answers = answer_items(model, tokenizer, words, batch_size=BATCH, max_new_tokens=LONGEST)
        alone, floor = [], []
        with torch.inference_mode():
            for item, said in zip(tests["mixed"], words, strict=True):
                expected, ids = item_log_probs(base, question_alone(item), None)
                alone.append(expected)
                floor.append(divergence(expected, item_log_probs(base, said, len(ids))[0]))
        return cls(tests, base, answers, alone, floor)

    def to_dict(self) -> dict[str, Any]:
        """The LLM's results, and the kind of every item."""
        right = digits(score(i, a) for i, a in zip(self.tests["mixed"], self.answers, strict=True))
        return {
            "kinds": {name: [item.kind for item in items] for name, items in self.tests.items()},
            "llm": right,
            "tokens": [len(rows) for rows in self.alone],
            "floor": [round(value, 6) for value in self.floor],
        }


def load(checkpoint: Path) -> EvalModel:
    """A checkpoint in evaluation mode."""
    model = WingsForCausalLM.from_pretrained(checkpoint).eval()
    processor = WingsProcessor.from_pretrained(checkpoint)
    return EvalModel(
        str(checkpoint), "wings", model, processor, model_fingerprint(model, processor)
    )


def choose_gates(model: EvalModel, validation: Path, runner: EvalRunner) -> dict[str, Any]:
    """The gates that `wings gate` chooses on the validation items, of each shape and of both.

    Questions about an earlier picture count as questions about pictures.
    """
    text = read_items(validation / "mixed.jsonl")
    pictures = [
        item
        for name in ("pictures", "follow_ups")
        for item in read_items(validation / f"{name}.jsonl")
    ]
    curve = measure_curve(model, text, pictures, all_settings(False), runner, keep=2.0)
    by_shape = {
        shape: GateCurve(
            [r for r in curve.results if r.setting.gate in ("none", shape)], curve.keep
        )
        for shape in ("tanh", "hill")
    }
    return {
        "curve": [
            [r.setting.gate, r.setting.value, r.text_percent, r.question_percent]
            for r in curve.results
        ],
        "chosen": {
            name: [one.chosen.setting.gate, one.chosen.setting.value]
            for name, one in {**by_shape, "both": curve}.items()
        },
    }


def variants(
    checkpoint: Path, gate: str, chosen: dict[str, Any], constants: Sequence[float]
) -> Iterator[tuple[str, EvalModel]]:
    """A trained checkpoint and, where it has no gate, all that is put on it afterwards.

    Args:
        checkpoint: its folder.
        gate: that it was trained with.
        chosen: see `choose_gates`; empty for a checkpoint with a gate.
        constants: weights of all learners to try.
    """
    yield gate, load(checkpoint)
    if gate != "none":
        return
    yield "learners off in text turns", load(checkpoint)
    for name, word in (("tanh", "attended"), ("hill", "hill"), ("both", "attended or hill")):
        model = load(checkpoint)
        shape, value = chosen["chosen"][name]
        GateSetting(shape, value).put_on(wings_of(model))
        yield f"none, then {word}", model
    for constant in constants:
        model = load(checkpoint)
        weaken(wings_of(model), constant)
        yield f"constant {constant:g}", model


def wings_of(model: EvalModel) -> WingsForCausalLM:
    """The Wings model of an `EvalModel`."""
    assert isinstance(model.model, WingsForCausalLM)
    return model.model


@torch.no_grad()
def weaken(model: WingsForCausalLM, factor: float) -> None:
    """Multiplies what every learner adds by `factor`: a constant gate."""
    for part in model.modules():
        if isinstance(part, LoRRALearner):
            # The last factor of a learner's output, see `wings/layers/lorra.py`.
            part.get_parameter("b_o").mul_(factor)


def measure(model: EvalModel, name: str, questions: Questions) -> dict[str, Any]:
    """Results of one variant on the test, item by item.

    Returns:
        `right` by test, a digit 0 or 1 an item; `same`: the answer is the LLM's after the exchange
        in words; `kl`: from the LLM that is asked alone, summed over an answer; `mass`: see
        `image_masses`; `open`: follow-ups that are right with the checkpoint's own gate taken off.
    """
    is_off = name == "learners off in text turns"
    answers = {}
    for test, items in questions.tests.items():
        if is_off and test == "mixed":
            answers[test] = answers_with_last_turn_off(model, items, BATCH, LONGEST)
        else:
            answers[test] = answer_items(
                model.model, model.processor, items, batch_size=BATCH, max_new_tokens=LONGEST
            )
    pairs = zip(answers["mixed"], questions.answers, strict=True)
    result = {
        "right": {
            test: digits(score(i, a) for i, a in zip(items, answers[test], strict=True))
            for test, items in questions.tests.items()
        },
        "same": digits(is_exact(mine, theirs) for mine, theirs in pairs),
        "kl": [round(value, 6) for value in divergences(model, questions, is_off)],
        "mass": image_masses(model, questions),
    }
    if name in GATES and name != "none":
        wings_of(model).reconfigure(router=None)
        items = questions.tests["follow_ups"]
        opened = answer_items(
            model.model, model.processor, items, batch_size=BATCH, max_new_tokens=LONGEST
        )
        result["open"] = digits(score(i, a) for i, a in zip(items, opened, strict=True))
    return result


def digits(scores: Iterable[float]) -> str:
    """Scores of 0 or 1 as one digit each: a tenth of the file."""
    return "".join(str(int(value)) for value in scores)


@torch.inference_mode()
def divergences(model: EvalModel, questions: Questions, is_off: bool) -> list[float]:
    """KL from the LLM that is asked alone to the model after an image, summed over each answer."""
    sums = []
    for item, expected in zip(questions.tests["mixed"], questions.alone, strict=True):
        start = last_turn(model.processor, item) if is_off else None
        sums.append(divergence(expected, log_probs(model, item, len(expected), start)))
    return sums


def log_probs(model: EvalModel, item: Item, count: int, start: int | None) -> Tensor:
    """`item_log_probs`, with learners off from a position on; None for nowhere."""
    if start is None:
        return item_log_probs(model, item, count)[0]
    with learners_off_from(wings_of(model), torch.tensor([start])):
        return item_log_probs(model, item, count)[0]


@torch.inference_mode()
def image_masses(model: EvalModel, questions: Questions) -> dict[str, float]:
    """The main attention's mean mass on image tokens in text and in picture turns.

    Means over blocks, heads and the tokens of the last turn's question, of some items a test.
    """
    wings = wings_of(model)
    means = {}
    for test, items in questions.tests.items():
        masses = []
        for item in items[:MASS_ITEMS]:
            batch = encode(model.processor, [list(item.messages)])
            is_image = batch["input_ids"][0] == wings.config.image_token_id
            out = wings(**batch, output_attentions=True, use_cache=False)
            mass = torch.stack([one[0].mean(0)[:, is_image].sum(-1) for one in out.attentions])
            # The question comes after the tokens of its own image, which attend to one another.
            first = max(last_turn(model.processor, item), int(is_image.nonzero().max()) + 1)
            masses.append(mass[:, first:].mean().item())
        means[test] = round(sum(masses) / len(masses), 4)
    return means
