"""Answers of the demo: streamed, with learners or without, and the router's weights for them."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList, TextIteratorStreamer

from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.sense import VALUES
from wings.serving.server import StopOnEvent

# Seconds without a new piece after which the answer so far is yielded again.
SILENCE = 0.5


@dataclass(frozen=True)
class Answer:
    """An answer so far.

    Attributes:
        text: all of it, not only its newest piece.
        weights: of a whole answer, by sense, `[L, M]` float32: the weight of each of its learners
            (M) in each of its blocks (L), mean over the answer's tokens. Empty while the answer
            grows, and where no learner acted.
    """

    text: str
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def stream_answer(
    model: WingsForCausalLM,
    processor: WingsProcessor,
    messages: Sequence[Mapping],
    max_new_tokens: int,
    learners: bool = True,
) -> Iterator[Answer]:
    """Yields the greedy answer to a conversation as it grows, the last time with its weights.

    Any number of threads may call this with one model: the learners of one call do not depend on
    those of another. Closing the iterator ends the generation at its next token.

    Args:
        model: in evaluation mode.
        processor: of the model.
        messages: the conversation, see `WingsProcessor.encode`.
        max_new_tokens: longest answer, in tokens.
        learners: False for an answer of the LLM and the projected features of the items alone.

    Raises:
        WingsError: a message, or a source in it, that cannot be read.
    """
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    ).to(model.device)
    streamer: Any = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, timeout=SILENCE, skip_special_tokens=True
    )
    stopped = threading.Event()

    def generate() -> Tensor:
        # The context variable that switches learners off holds in this thread alone.
        with contextlib.nullcontext() if learners else model.without_wings():
            try:
                return model.generate(
                    **batch,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([StopOnEvent(stopped)]),
                )
            finally:
                # After an error nothing else would end the loop below.
                streamer.end()

    text = ""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generate)
        try:
            for piece in pieces(streamer):
                text += piece
                yield Answer(text)
            ids = future.result()
        finally:
            stopped.set()
    yield Answer(text.strip(), answer_weights(model, batch, ids) if learners else {})


def pieces(streamer: Any) -> Iterator[str]:
    """The pieces of a streamer with a timeout; empty ones while nothing comes.

    It holds back the letters of a word until its end. A caller that is to stop must have a turn.
    """
    while True:
        try:
            yield next(streamer)
        except queue.Empty:
            yield ""
        except StopIteration:
            return


@torch.no_grad()
def answer_weights(
    model: WingsForCausalLM, batch: Mapping[str, Tensor], ids: Tensor
) -> dict[str, Tensor]:
    """Computes the mean weight of each learner in each block over the tokens of an answer.

    One pass over the conversation, which equals the passes of the generation (see
    docs/guarantees.md).

    Args:
        model: that gave the answer.
        batch: the prompt: `input_ids`, `attention_mask` `[1, T]`, and the items of the senses.
        ids: `[1, T + N]`, prompt and answer.

    Returns:
        by sense, `[L, M]` float32 on the CPU, as `Answer.weights`.
    """
    prompt = batch["input_ids"].shape[1]
    if ids.shape[1] == prompt:
        return {}
    out = model(
        input_ids=ids,
        **{name: batch[name] for name in batch if VALUES.fullmatch(name)},
        use_cache=False,
        logits_to_keep=1,
        output_router_weights=True,
    )
    if out.router_weights is None:
        return {}
    # A token is chosen one position before its own.
    steps = slice(prompt - 1, -1)
    found: dict[str, list[Tensor]] = {}
    # A block has the learners of one sense after those of another.
    for layer, weights in zip(model.config.layers_with_learners, out.router_weights, strict=True):
        senses = [one for one in model.config.senses.values() if layer in one.layers]
        means = weights[0, steps].float().mean(0).cpu()
        parts = means.split([len(sense.learners) for sense in senses])
        for sense, part in zip(senses, parts, strict=True):
            found.setdefault(sense.name, []).append(part)
    stacked = {name: torch.stack(parts) for name, parts in found.items()}
    if len(stacked) == 1:
        return stacked
    # Idle beside another sense: the conversation has no item of it.
    return {name: weights for name, weights in stacked.items() if weights.any()}
