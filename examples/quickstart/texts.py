"""Text questions of four kinds: facts about an invented island, sums, instructions, reading.

Every kind is drawn at random without end. One wording of each fact and of each sum is held out.
Word lists and described pictures rarely occur twice.
"""

import random

from wings.examples.conversations import Exchange
from wings.examples.scenes import DESCRIBE, ask, ask_of_two, in_words, random_things

KINDS = ("facts", "arithmetic", "instructions", "reading")
SHARES = (10, 15, 25, 50)  # percent of the training text: the harder, the more

PEOPLE = (
    "Ada", "Bruno", "Cleo", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Kira",
    "Leon", "Mila", "Nico", "Olga", "Pablo", "Rosa", "Sven", "Tilda", "Ugo", "Vera", "Wanda",
    "Xaver", "Yara",
)  # fmt: skip
TOWNS = ["Tarn", "Brill", "Oster", "Quay", "Lund", "Mora"]
FOODS = ["figs", "bread", "soup", "plums", "rice", "cheese"]
TRADES = ["baker", "sailor", "painter", "miner", "weaver", "singer"]

WORDINGS = {
    "home": (
        "Where does {} live?", "Which town is {} from?", "Name the home of {}.",
        "{} lives in which town?",
    ),
    "food": (
        "What does {} eat?", "Which food does {} like?", "Name the food of {}.",
        "{} likes to eat what?",
    ),
    "trade": (
        "What is the trade of {}?", "What work does {} do?", "Name the job of {}.",
        "{} works as what?",
    ),
}  # fmt: skip
ANSWERS = {"home": TOWNS, "food": FOODS, "trade": TRADES}

SUMS = ("{} + {} = ?", "What is {} plus {}?", "Add {} and {}.")
NEXT = ("What comes after {}?", "Which number follows {}?", "Count one on from {}.")

WORDS = (
    "cat", "dog", "sun", "moon", "tree", "fish", "bird", "rain", "snow", "lamp", "ship", "door",
    "stone", "river", "cloud", "apple", "red", "green", "blue", "yellow", "purple", "white",
    "circle", "square", "triangle", "star", "cross", "ring",
)  # fmt: skip


class World:
    """The island's facts.

    Attributes:
        about: the answer by person and topic.
        held_out_wording: the number of the wording that is not trained on, likewise.
    """

    def __init__(self) -> None:
        rng = random.Random("world 0")
        self.about: dict[tuple[str, str], str] = {}
        self.held_out_wording: dict[tuple[str, str], int] = {}
        for person in PEOPLE:
            for what, answers in ANSWERS.items():
                self.about[person, what] = rng.choice(answers)
                self.held_out_wording[person, what] = rng.randrange(len(WORDINGS[what]))

    def fact(self, rng: random.Random, held_out: bool) -> Exchange:
        """A question about one person, in the held-out wording or in another."""
        person, what = rng.choice(tuple(self.about))
        number = self.held_out_wording[person, what]
        wordings = [w for n, w in enumerate(WORDINGS[what]) if (n == number) == held_out]
        return Exchange("facts", rng.choice(wordings).format(person), self.about[person, what])


def arithmetic(rng: random.Random, held_out: bool) -> Exchange:
    """The sum of two digits, or the number after one below 100; some wordings are held out."""
    numbers: tuple[int, ...]
    if rng.random() < 0.5:
        numbers, wordings = (rng.randrange(10), rng.randrange(10)), SUMS
        answer = numbers[0] + numbers[1]
    else:
        numbers, wordings = (rng.randrange(100),), NEXT
        answer = numbers[0] + 1
    held_out_wording = (numbers[0] + 2 * numbers[-1] + numbers[0] // 10) % len(wordings)
    usable = [w for n, w in enumerate(wordings) if (n == held_out_wording) == held_out]
    return Exchange("arithmetic", rng.choice(usable).format(*numbers), str(answer))


def instruction(rng: random.Random) -> Exchange:
    """A task on words: reverse, repeat, pick the first or last, write in capitals."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    listed = " ".join(words)
    question, answer = rng.choice(
        (
            (f"Reverse: {listed}", " ".join(reversed(words))),
            (f"Repeat: {listed}", listed),
            (f"First word: {listed}", words[0]),
            (f"Last word: {listed}", words[-1]),
            (f"Capitals: {words[0]} {words[1]}", f"{words[0]} {words[1]}".upper()),
        )
    )
    return Exchange("instructions", question, answer)


def reading(rng: random.Random) -> Exchange:
    """A picture or two described in words, and a question, in the words of picture questions."""
    if rng.random() < 0.25:
        both = (random_things(rng, 2), random_things(rng, 2))
        text = f"First picture: {in_words(both[0])}. Second picture: {in_words(both[1])}."
        question, answer = ask_of_two(rng, both)
        return Exchange("reading", f"{text} {question}", answer)
    things = random_things(rng, 3)
    if rng.random() < 0.1:
        return Exchange("reading", f"{in_words(things)}. {rng.choice(DESCRIBE)}", in_words(things))
    question, answer = ask(rng, things)
    return Exchange("reading", f"{in_words(things)}. {question}", answer)


def text_turn(
    world: World, rng: random.Random, held_out: bool, kind: str | None = None
) -> Exchange:
    """One exchange, held out or for training, of a kind of `KINDS` (by default drawn)."""
    kind = kind or rng.choices(KINDS, SHARES)[0]
    if kind == "facts":
        return world.fact(rng, held_out)
    if kind == "arithmetic":
        return arithmetic(rng, held_out)
    return instruction(rng) if kind == "instructions" else reading(rng)
