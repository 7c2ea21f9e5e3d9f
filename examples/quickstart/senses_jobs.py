"""Jobs of `wings quickstart --audio`: sounds, the audio encoder, hearing, and composition."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from wings.eval.generate import answer_items, encode_for
from wings.eval.items import Item, read_items
from wings.examples.speech.small_encoder import train_encoder
from wings.examples.speech.sound import Speaker
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.recipe import Recipe

from .jobs import Reporter, percentages, score_tests, train_and_report
from .sounds import SPOKEN, HearingSize, SoundAmounts, write_sequences, write_sounds

HEARING_TESTS = ("text", "text_after_sound", "sounds")
# Each item has at most one sense; the others have a picture and a sound.
ONE_SENSE = ("text", "mixed", "text_after_sound", "pictures", "sounds")
TWO_SENSES = ("text_after_both", "pictures_after_sound", "sounds_after_picture")
RULE = "newest"  # of the composed model that is kept: of the four, it hears best after a picture
COMPARED = 40  # rows of each kind whose logits are compared


def make_sounds(
    job: str, data: Path, speaker: Speaker, seed: int, amounts: SoundAmounts
) -> dict[str, Any]:
    """Writes the sounds and the tests that have them."""
    start = time.perf_counter()
    write_sounds(data, speaker, amounts, seed)
    write_sequences(data, seed)
    count = len(list((data / "sounds").iterdir()))
    return {"seconds": time.perf_counter() - start, "note": f"{count:,} sounds"}


def make_encoder(
    job: str, folder: Path, speaker: Speaker, seed: int, size: HearingSize
) -> dict[str, Any]:
    """Trains the audio encoder on single words and writes it."""
    start, reporter = time.perf_counter(), Reporter(job, size.encoder_steps)
    share = train_encoder(
        folder, speaker, seed, size.encoder_steps, reporter.step_with_loss, SPOKEN,
        size.stretches, size.takes,
    )  # fmt: skip
    seconds, note = time.perf_counter() - start, f"recognises {100 * share:.1f}% of the words"
    return {"words_recognised": 100 * share, "seconds": seconds, "note": note}


def run_align(job: str, recipe: Recipe) -> dict[str, Any]:
    """Runs the first stage."""
    return train_and_report(job, recipe)


def run_instruct(job: str, recipe: Recipe, data: Path) -> dict[str, Any]:
    """Runs the second stage and scores the saved checkpoint."""
    result = train_and_report(job, recipe)
    model = WingsForCausalLM.from_pretrained(recipe.output)
    processor = WingsProcessor.from_pretrained(recipe.output)
    groups = model.parameter_groups()
    trained = {name: sum(p.numel() for p in groups[name]) for name in recipe.learning_rates}
    scores = score_tests(model, processor, data, HEARING_TESTS)
    return {**result, "trained": trained, "scores": scores, "note": percentages(scores)}


def make_both(
    job: str, llm: Path, sees: Path, hears: Path, folder: Path, data: Path
) -> dict[str, Any]:
    """Composes two checkpoints, saves the result, and compares it with its parts.

    Returns:
        `scores` of the tests whose items have one sense at most, and `same_logits`: for text alone,
        pictures and sounds, the number of rows whose logits are those of the language model, the
        seeing model and the hearing model to the last bit, and the number of rows compared.
    """
    start = time.perf_counter()
    parts = [WingsForCausalLM.from_pretrained(one) for one in (sees, hears)]
    processors = [WingsProcessor.from_pretrained(one) for one in (sees, hears)]
    both = WingsForCausalLM.compose(*parts, rule=RULE)
    processor = WingsProcessor.compose(*processors)
    both.save_pretrained(folder)
    processor.save_pretrained(folder)
    text = AutoModelForCausalLM.from_pretrained(llm), AutoTokenizer.from_pretrained(llm)
    against = {
        "text": text,
        "pictures": (parts[0], processors[0]),
        "sounds": (parts[1], processors[1]),
    }
    same = {}
    for test, (model, its_processor) in against.items():
        items = read_items(data / f"{test}_held_out.jsonl")[:COMPARED]
        equal = same_logits((both, processor), (model, its_processor), items)
        same[test] = {"equal": equal, "compared": len(items)}
    scores = score_tests(both, processor, data, ONE_SENSE)
    equal, compared = (sum(one[key] for one in same.values()) for key in ("equal", "compared"))
    return {
        "rule": RULE,
        "seconds": time.perf_counter() - start,
        "same_logits": same,
        "scores": scores,
        "note": f"{equal} of {compared} rows as apart, to the last bit",
    }


def score_rule(job: str, folder: Path, rule: str, data: Path) -> dict[str, Any]:
    """Scores the composed model with a rule where items have a picture and a sound."""
    model = WingsForCausalLM.from_pretrained(folder)
    model.config.senses_rule = rule
    processor = WingsProcessor.from_pretrained(folder)
    scores = score_tests(model, processor, data, TWO_SENSES)
    return {"scores": scores, "note": percentages(scores)}


@torch.inference_mode()
def same_logits(one: tuple[Any, Any], other: tuple[Any, Any], items: Sequence[Item]) -> int:
    """The number of items, each alone in its batch, for which two models give the same logits.

    Args:
        one: a model and its processor, or its tokenizer.
        other: likewise.
        items: of which every position is compared, to the last bit.
    """
    count = 0
    for item in items:
        logits = [
            model.eval()(**encode_for(model, processor, [list(item.messages)])).logits
            for model, processor in (one, other)
        ]
        count += torch.equal(*logits)
    return count


def converse(folder: Path, turns: Sequence[dict]) -> list[str]:
    """Loads a checkpoint as a user would and has a conversation: the answer to every turn.

    Args:
        folder: of the checkpoint.
        turns: messages of the user; each is answered after all turns and answers before it.
    """
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    messages: list[dict] = []
    answers = []
    for turn in turns:
        messages.append(turn)
        (answer,) = answer_items(model, processor, [Item("all", tuple(messages), "")])
        messages.append({"role": "assistant", "content": answer})
        answers.append(answer)
    return answers
