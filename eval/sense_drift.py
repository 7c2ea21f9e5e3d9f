"""Drift after an image or a sound: KL of text answers from the LLM's, and its floor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from wings import WingsProcessor
from wings.errors import WingsError
from wings.processing.tokenization import IGNORED
from wings.processing.vision_language import encode_conversations

from .compare.bootstrap import Estimate, bootstrap
from .compare.clusters import cluster_items
from .compare.comparison import ALL, kinds_of
from .continuation import continuation_log_probs
from .divergence import answer_log_probs, divergence
from .documents import Document
from .fingerprint import fingerprint, item_fingerprint
from .generate import encode_for, is_composite
from .items import Item, question_alone, without_sources
from .models import EvalModel
from .report.report import Section
from .runner import EvalRunner
from .senses import SEEN, EvalSense

Arm = Literal["alone", "words", "after"]
HEADERS: tuple[str, ...] = (
    "", "model\nalone", "floor: LLM\nafter words", "model\nafter {}", "above\nthe floor",
)  # fmt: skip
SENTENCE = (
    "The right answers to the last questions of the conversations, token by token. All figures are "
    "KL from the LLM that is asked the question alone, in nats a token, with bootstrap intervals. "
    "Any exchange before a question moves the LLM itself: the floor is the LLM after the same "
    "exchange in words."
)


@dataclass(frozen=True)
class AnswerDrift:
    """Sums over the tokens of one answer, all relative to the LLM that is asked alone.

    Attributes:
        kind: of the item.
        cluster: the number of its cluster.
        tokens: of the answer, with the end of the turn.
        alone: sum of KL(LLM || model asked alone) in nats.
        words: sum of KL(LLM || LLM after the exchange in words).
        after: sum of KL(LLM || model after the exchange with its images and sounds).
    """

    kind: str
    cluster: int
    tokens: int
    alone: float
    words: float
    after: float


@dataclass(frozen=True)
class SenseDrift:
    """The drift of all answers after items of one sense, or of several together."""

    answers: Sequence[AnswerDrift]
    seed: int = 0
    sense: EvalSense = SEEN

    @property
    def kinds(self) -> list[str]:
        """Kinds in the order in which they first appear; `all` comes first if there are several."""
        return kinds_of(answer.kind for answer in self.answers)

    def kl(self, arm: Arm, kind: str) -> Estimate:
        """Mean KL from the LLM that is asked alone, in nats a token."""
        chosen = self._of(kind)
        return self._per_token([getattr(answer, arm) for answer in chosen], chosen)

    def above_floor(self, kind: str) -> Estimate:
        """The model's drift after the exchange minus its floor, in nats a token."""
        chosen = self._of(kind)
        return self._per_token([answer.after - answer.words for answer in chosen], chosen)

    def to_dict(self) -> dict[str, Any]:
        """All figures by kind, and the sums of every answer, for JSON."""
        kinds = {}
        for kind in self.kinds:
            chosen = self._of(kind)
            kinds[kind] = {
                "alone": self.kl("alone", kind).to_dict(),
                "floor": self.kl("words", kind).to_dict(),
                self.sense.key: self.kl("after", kind).to_dict(),
                "above_floor": self.above_floor(kind).to_dict(),
                "tokens": sum(answer.tokens for answer in chosen),
                "clusters": len({answer.cluster for answer in chosen}),
            }
        return {"kinds": kinds, "answers": [self._named(answer) for answer in self.answers]}

    def section(self) -> Section:
        """The report's section."""
        noun = self.sense.noun_in_words
        rows = [tuple(header.format(noun) for header in HEADERS)]
        for kind in self.kinds:
            estimates = self.kl("words", kind), self.kl("after", kind), self.above_floor(kind)
            rows.append((kind, f"{self.kl('alone', kind).value:.3f}", *map(format_nats, estimates)))
        clusters = len({answer.cluster for answer in self.answers})
        count = f" {len(self.answers):,} answers in {clusters:,} clusters."
        return Section(f"Drift after {self.sense.one}", SENTENCE + count, rows)

    def _named(self, answer: AnswerDrift) -> dict[str, Any]:
        """The sums of one answer, that after the exchange under the name of the sense."""
        names = {"after": self.sense.key}
        return {names.get(name, name): value for name, value in vars(answer).items()}

    def _of(self, kind: str) -> list[AnswerDrift]:
        return [answer for answer in self.answers if kind in (ALL, answer.kind)]

    def _per_token(self, sums: Sequence[float], chosen: Sequence[AnswerDrift]) -> Estimate:
        tokens = [answer.tokens for answer in chosen]
        clusters = [answer.cluster for answer in chosen]
        return bootstrap(sums, tokens, self.seed, clusters=clusters)


def format_nats(estimate: Estimate) -> str:
    """`0.138 (0.12, 0.16)`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}, {estimate.high:.2f})"


def measure_sense_drift(
    llm: EvalModel,
    model: EvalModel,
    items: Sequence[Item],
    runner: EvalRunner,
    sense: EvalSense = SEEN,
) -> SenseDrift:
    """Compares the next-token distributions on the reference answers of conversations.

    Args:
        llm: the reference; it is asked each question alone, and after the exchange in words.
        model: accepts the items' pictures and sounds and has the LLM's tokenizer.
        items: conversations with pictures or sounds whose last question is about text.
        runner: shares the work; each answer is cached.
        sense: that all items have.

    Raises:
        WingsError: a conversation that a chat template cannot render, an answer that is tokenized
            differently in one of the conversations, or logits that are not finite.
    """
    settings = (llm.fingerprint, model.fingerprint, runner.processes.device.type)
    name = f"drift after {sense.one}"
    keys = [fingerprint(name, *settings, item_fingerprint(item), item.answer) for item in items]
    size = runner.batch_size
    results = runner.compute_items(
        name, items, keys, lambda batch: [answer_sums(llm, model, item) for item in batch],
        lambda different: [
            range(len(different))[start : start + size]
            for start in range(0, len(different), size)
        ],
    )  # fmt: skip
    answers = [
        AnswerDrift(item.kind, cluster, int(tokens), *sums)
        for item, cluster, (tokens, *sums) in zip(items, cluster_items(items), results, strict=True)
    ]
    return SenseDrift(answers, runner.seed, sense)


@torch.inference_mode()
def answer_sums(llm: EvalModel, model: EvalModel, item: Item) -> list[float]:
    """Token count and the sums of KL of one item, in the order of `AnswerDrift`.

    Each conversation is a row of its own: no padding changes its rounding.
    """
    alone, words = question_alone(item), without_sources(item)
    # Alone, the only answer is the one that is measured.
    expected, answer = item_log_probs(llm, alone, None)
    sums = []
    for one, asked in ((model, alone), (llm, words), (model, item)):
        found, ids = item_log_probs(one, asked, len(answer))
        if not torch.equal(ids, answer):
            raise WingsError(
                f"The answer {item.answer!r:.60} is tokenized differently by {one.name}; use one "
                "chat template for both models."
            )
        sums.append(divergence(expected, found))
    if not all(map(math.isfinite, sums)):
        raise WingsError(
            f"After {item.answer!r:.60} the logits of {llm.name} or {model.name} are not finite; "
            "try another dtype."
        )
    return [len(answer), *sums]


def item_log_probs(model: EvalModel, item: Item, count: int | None) -> tuple[Tensor, Tensor]:
    """`answer_log_probs` of an item's conversation with its reference answer.

    Raises:
        WingsError: a chat template that cannot render the conversation, or that changes the prompt
            once the answer follows it.
    """
    messages = [*item.messages, {"role": "assistant", "content": item.answer}]
    if is_composite(model.processor):
        prompt = encode_for(model.model, model.processor, [list(item.messages)])
        whole = encode_conversations(model.processor, [messages], add_generation_prompt=False)
        asked, ids = prompt["input_ids"][0].cpu(), whole["input_ids"][0]
        if not torch.equal(ids[: len(asked)], asked):
            raise WingsError(
                f"The chat template of {model.name} does not put {item.answer!r:.60} after the "
                "prompt that generation starts from; use another template."
            )
        tokens = ids[len(asked) :][:count]
        return continuation_log_probs(model.model, prompt, tokens), tokens
    if isinstance(model.processor, WingsProcessor):
        sample = model.processor.encode(messages)
    else:
        ids, targets = Document("A conversation", messages=tuple(messages)).tokens(model.tokenizer)
        tokens = torch.tensor(ids)
        sample = {
            "input_ids": tokens,
            "labels": tokens.where(torch.tensor(targets), torch.tensor(IGNORED)),
        }
    return answer_log_probs(model.model, sample, count)
