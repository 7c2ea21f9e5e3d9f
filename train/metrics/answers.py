"""Answers to a few fixed questions at every evaluation: for TensorBoard and the run's folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from wings.model.causal_lm import WingsForCausalLM
from wings.processing.image_reader import load_image
from wings.processing.processor import WingsProcessor
from wings.records.formats import Message, images_of, text_of
from wings.train.data.after_item import Conversations
from wings.train.recipe import Limits
from wings.train.run_folder import ANSWERS, RunFolder

from .trackers import EventFiles

MAX_NEW_TOKENS = 32
SHOWN_PIXELS = (320, 320)


@dataclass(frozen=True)
class Question:
    """One question with its expected answer.

    Attributes:
        kind: `image`, `text` or `text after image`; of sounds `audio` and `text after audio`.
        messages: the conversation up to the question.
        expected: the answer in the data.
    """

    kind: str
    messages: list[Message]
    expected: str


@dataclass(frozen=True)
class Answer:
    """One line of `answers.jsonl`.

    Attributes:
        step: of the run.
        kind: of the question.
        question: its text.
        expected: the answer in the data.
        answer: the model's, greedy, up to 32 tokens.
    """

    step: int
    kind: str
    question: str
    expected: str
    answer: str


def choose_questions(found: Sequence[Conversations], count: int) -> list[Question]:
    """Up to `count` questions of each kind, from the conversations of each sense."""
    talks: dict[str, Sequence[list[Message]]] = {}
    for one in found:
        talks[one.sense] = one.items
        talks.setdefault("text", one.texts)
        talks[f"text after {one.sense}"] = [
            [part for half in one.pair(n) for part in half] for n in range(one.count)
        ]
    return [
        Question(kind, messages[:-1], text_of(messages[-1]["content"]))
        for kind, chosen in talks.items()
        for messages in chosen[:count]
    ]


class FixedQuestions:
    """The fixed questions of a run.

    Args:
        questions: the questions.
        processor: encodes them and decodes answers.
        limits: bounds on the images shown.
        folder: `answers.jsonl` is written there.
        events: TensorBoard's event files, if any.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        processor: WingsProcessor,
        limits: Limits,
        folder: RunFolder,
        events: EventFiles | None,
    ) -> None:
        self.questions, self.processor, self.limits = questions, processor, limits
        self.folder, self.events = folder, events

    def ask(self, model: WingsForCausalLM, step: int, is_first: bool) -> None:
        """Asks all questions; the first process writes the answers.

        Args:
            model: the model in training, unwrapped, in evaluation mode. With sharded weights every
                process must call this; all get the same questions, so they stay in step.
            step: of the run; answers of later steps in the file are removed.
            is_first: True on the first process.
        """
        answers = []
        for one in self.questions:
            question = text_of(one.messages[-1]["content"])
            answers.append(Answer(step, one.kind, question, one.expected, self._answer(model, one)))
        if not is_first:
            return
        file = self.folder.path / ANSWERS
        earlier = file.read_text().splitlines() if file.is_file() else []
        kept = [line for line in earlier if json.loads(line)["step"] < step]
        lines = [json.dumps(asdict(answer), ensure_ascii=False) for answer in answers]
        self.folder.write(ANSWERS, "\n".join([*kept, *lines, ""]))
        if self.events is not None:
            self._show(answers, step)

    @torch.no_grad()
    def _answer(self, model: WingsForCausalLM, question: Question) -> str:
        batch = self.processor.apply_chat_template(
            question.messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        output = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = output[0, batch["input_ids"].shape[1] :]
        return self.processor.decode(new, skip_special_tokens=True)

    def _show(self, answers: Sequence[Answer], step: int) -> None:
        assert self.events is not None
        for number, (question, answer) in enumerate(zip(self.questions, answers, strict=True)):
            name = f"answers/{number} {answer.kind}"
            text = f"**{answer.question}**\n\n{answer.answer}\n\nexpected: {answer.expected}"
            self.events.add_text(name, text, step)
            sources = images_of(question.messages)
            if sources and step == 0:
                image = load_image(sources[-1], self.limits)
                image.thumbnail(SHOWN_PIXELS)
                self.events.add_image(name, np.asarray(image.convert("RGB")))
