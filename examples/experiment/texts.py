"""Text questions of the kinds that a program scores, and the LLM's own answers.

The LLM alone has between a third and four fifths of each kind right. Where SmolLM2-135M writes no
right answer, it chooses among four by likelihood.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wings.eval.builtin.instructions import instructions
from wings.eval.builtin.tasks import capitals
from wings.eval.items import Item
from wings.examples.conversations import Exchange, fact_questions

from .size import PARTS, ExperimentSize

LIKELIHOOD = "likelihood"
SUM = "What is {} plus {}? Answer with the number."
REVERSAL = "Write these words in reverse order: {}."
_WORDS = (
    "river bridge market teacher window garden story doctor kitchen forest island village poem"
    " holiday painting bicycle library museum candle mirror blanket chair ladder oven letter"
    " shadow storm valley winter carpet engine harbour journey meadow pillow poet sailor school"
    " song statue temple tunnel umbrella wheel wool stone apple house green paper table water"
    " money night music plant smile"
)
WORDS = _WORDS.split()
# Instructions of these kinds are possible for a small LLM, and their answers are short.
FOLLOWED = ("lines", "numbered", "commas", "begins")
# Subjects of instructions by part; all others are trained on.
INSTRUCTED = {
    "test": ("animals", "colours", "fruits", "planets", "the sea", "a library", "winter", "bread"),
    "validation": ("tools", "the moon"),
}
# The LLM's own answers to these prompts about these subjects are trained on, and held out.
PROMPTS = (
    "What is a {}?",
    "Tell me about {}.",
    "Write one sentence with the word '{}'.",
    "Why do people like {}?",
    "Give me a short definition of '{}'.",
    "Name two things that go well with a {}.",
)
LONGEST = 120  # characters of the LLM's own answers; longer ones only pad the batches


def sums(rng: random.Random) -> list[Item]:
    """Every sum of a number below sixty and one below ten; wrong choices differ by ten or more."""
    items = []
    for a, b in itertools.product(range(2, 60), range(2, 10)):
        far = [str(n) for n in range(2, 100) if abs(n - a - b) > 9]
        question = SUM.format(a, b)
        items.append(chosen("sums", question, str(a + b), rng.sample(far, 3), rng))
    return items


def reversals(rng: random.Random) -> list[Item]:
    """The order of two words reversed; wrong choices keep it or have another word."""
    items = []
    for first, second in itertools.permutations(WORDS, 2):
        other = rng.choice([word for word in WORDS if word not in (first, second)])
        wrong = [f"{first}, {second}", f"{second}, {other}", f"{first}, {other}"]
        question = REVERSAL.format(f"{first}, {second}")
        items.append(chosen("reversals", question, f"{second}, {first}", wrong, rng))
    return items


def of_capitals(rng: random.Random) -> list[Item]:
    """Capitals of countries; wrong choices are from the same continent."""
    return [replace(item, kind="capitals", scoring=LIKELIHOOD, checks=()) for item in capitals()]


def facts(rng: random.Random) -> list[Item]:
    """Opposites, languages and continents; an answer must mention the right word."""
    return [
        Item("facts", ({"role": "user", "content": question},), answer, "mention")
        for question, answer in fact_questions(("opposites", "languages", "continents"))
    ]


def chosen(kind: str, question: str, answer: str, wrong: Sequence[str], rng: random.Random) -> Item:
    """An item whose answer is the likeliest of four choices."""
    choices = tuple(rng.sample([answer, *wrong], 1 + len(wrong)))
    return Item(kind, ({"role": "user", "content": question},), answer, LIKELIHOOD, choices)


def text_items(size: ExperimentSize) -> dict[str, list[Item]]:
    """Items of "train", "validation" and "test"; no question is in two of them.

    Facts are not trained on: they show what holds for a kind of question that no data has.
    """
    pools: dict[str, Callable[[random.Random], list[Item]]] = {
        "sums": sums, "reversals": reversals, "capitals": of_capitals, "facts": facts,
    }  # fmt: skip
    parts: dict[str, list[Item]] = {part: [] for part in (*PARTS, "train")}
    for kind, counts in size.texts.items():
        if kind == "instructions":
            pool = instructed()
        else:
            items = pools[kind](random.Random(f"stages {kind}"))
            items = list({item.messages[0]["content"]: item for item in items}.values())
            random.Random(f"stages {kind} order").shuffle(items)
            ends = (counts[0], sum(counts))
            pool = {
                "validation": items[: ends[0]],
                "test": items[ends[0] : ends[1]],
                "train": items[ends[1] :],
            }
        for part, count in zip(PARTS, counts, strict=True):
            parts[part] += pool[part][:count]
        if kind != "facts":
            # A kind with few questions repeats them, so that all have equal shares.
            parts["train"] += [pool["train"][n % len(pool["train"])] for n in range(size.text)]
    return parts


def instructed() -> dict[str, list[Item]]:
    """Instructions about other subjects in every part."""
    distinct = {
        item.messages[0]["content"]: replace(item, kind="instructions")
        for seed in range(40)
        for item in instructions(seed)
        if item.kind in FOLLOWED
    }
    parts: dict[str, list[Item]] = {part: [] for part in (*PARTS, "train")}
    for question, item in distinct.items():
        of = (part for part, names in INSTRUCTED.items() if any(name in question for name in names))
        parts[next(of, "train")].append(item)
    return parts


@dataclass(frozen=True)
class OwnAnswers:
    """Conversations with the untouched LLM's own short answers: trained on, and held out."""

    trained: list[list[dict]]
    held_out: list[list[dict]]


def own_answers(answers: Callable[[list[str]], list[str]], size: ExperimentSize) -> OwnAnswers:
    """Asks the untouched LLM; answers without a whole short sentence are left out.

    Args:
        answers: gives the LLM's answers to questions.
        size: of the experiment.
    """
    questions = [prompt.format(word) for word in WORDS for prompt in PROMPTS]
    random.Random("stages own answers").shuffle(questions)
    # Some answers are left out.
    questions = questions[: 2 * (size.text + size.drift)]
    conversations = [
        Exchange("own", question, answer).messages()
        for question, text in zip(questions, answers(questions), strict=True)
        if (answer := first_sentence(text)) and len(answer) <= LONGEST
    ]
    held_out, rest = conversations[: size.drift], conversations[size.drift :]
    return OwnAnswers([rest[n % len(rest)] for n in range(size.text)], held_out)


def first_sentence(answer: str) -> str:
    """The first sentence of an answer; "" if it has no end."""
    line = answer.strip().split("\n")[0]
    end = line.find(". ")
    if end < 0:
        return line if line.endswith(".") else ""
    return line[: end + 1]
