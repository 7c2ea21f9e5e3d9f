"""What the small language model knows: an invented island, numbers, instructions, reading.

Every kind can be made without end. What is held out is one wording of each fact and
of each question about numbers; word lists and described pictures hardly ever come twice.
"""

import random
from dataclasses import dataclass

KINDS = ("facts", "arithmetic", "instructions", "reading")
SHARES = (10, 15, 25, 50)  # percent of what the model learns from: the harder, the more

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
        "Where does {} live?",
        "Which town is {} from?",
        "Name the home of {}.",
        "{} lives in which town?",
    ),
    "food": (
        "What does {} eat?",
        "Which food does {} like?",
        "Name the food of {}.",
        "{} likes to eat what?",
    ),
    "trade": (
        "What is the trade of {}?",
        "What work does {} do?",
        "Name the job of {}.",
        "{} works as what?",
    ),
}
ANSWERS = {"home": TOWNS, "food": FOODS, "trade": TRADES}

SUMS = ("{} + {} = ?", "What is {} plus {}?", "Add {} and {}.")
NEXT = ("What comes after {}?", "Which number follows {}?", "Count one on from {}.")

WORDS = (
    "cat", "dog", "sun", "moon", "tree", "fish", "bird", "rain", "snow", "lamp", "ship", "door",
    "stone", "river", "cloud", "apple", "red", "green", "blue", "yellow", "purple", "white",
    "circle", "square", "triangle", "star", "cross", "ring",
)  # fmt: skip

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
ORDER = ("first", "second")
DESCRIBE = ("Describe the picture.", "What do you see?", "Say what is in the picture.")
NUMBERS = ("none", "one", "two", "three", "four")


Thing = tuple[str, str, str]  # shape, colour, place


@dataclass(frozen=True)
class Turn:
    """One exchange: what the user says, the right answer, and of which kind it is."""

    kind: str
    question: str
    answer: str

    def messages(self, before: tuple[dict, ...] = ()) -> list[dict]:
        """Two chat messages; `before`: content parts (pictures) that precede the question."""
        content = [*before, {"type": "text", "text": self.question}] if before else self.question
        return [{"role": "user", "content": content}, {"role": "assistant", "content": self.answer}]


class World:
    """The facts of the island: `about[person, what]` is the answer, `kept_back` the wording held
    out.
    """

    def __init__(self) -> None:
        rng = random.Random("world 0")
        self.about: dict[tuple[str, str], str] = {}
        self.kept_back: dict[tuple[str, str], int] = {}
        for person in PEOPLE:
            for what, answers in ANSWERS.items():
                self.about[person, what] = rng.choice(answers)
                self.kept_back[person, what] = rng.randrange(len(WORDINGS[what]))

    def fact(self, rng: random.Random, held_out: bool) -> Turn:
        """A question about one person, in the wording kept back for it or in another."""
        person, what = rng.choice(tuple(self.about))
        kept_back = self.kept_back[person, what]
        wordings = [w for n, w in enumerate(WORDINGS[what]) if (n == kept_back) == held_out]
        return Turn("facts", rng.choice(wordings).format(person), self.about[person, what])


def arithmetic(rng: random.Random, held_out: bool) -> Turn:
    """The sum of two digits or the number after one below 100; held out are wordings, as for
    facts.
    """
    numbers: tuple[int, ...]
    if rng.random() < 0.5:
        numbers, wordings = (rng.randrange(10), rng.randrange(10)), SUMS
        answer = numbers[0] + numbers[1]
    else:
        numbers, wordings = (rng.randrange(100),), NEXT
        answer = numbers[0] + 1
    kept_back = (numbers[0] + 2 * numbers[-1] + numbers[0] // 10) % len(wordings)
    usable = [wording for n, wording in enumerate(wordings) if (n == kept_back) == held_out]
    return Turn("arithmetic", rng.choice(usable).format(*numbers), str(answer))


def instruction(rng: random.Random) -> Turn:
    """Something to do with words: reverse, repeat, pick the first or last, write in capitals."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    said = " ".join(words)
    question, answer = rng.choice(
        (
            (f"Reverse: {said}", " ".join(reversed(words))),
            (f"Repeat: {said}", said),
            (f"First word: {said}", words[0]),
            (f"Last word: {said}", words[-1]),
            (f"Capitals: {words[0]} {words[1]}", f"{words[0]} {words[1]}".upper()),
        )
    )
    return Turn("instructions", question, answer)


def reading(rng: random.Random) -> Turn:
    """A picture or two told in words, and a question: the words that pictures will need later."""
    if rng.random() < 0.25:
        both = (some_things(rng, 2), some_things(rng, 2))
        told = f"First picture: {tell(both[0])}. Second picture: {tell(both[1])}."
        question, answer = ask_of_two(rng, both)
        return Turn("reading", f"{told} {question}", answer)
    things = some_things(rng, 3)
    if rng.random() < 0.1:
        return Turn("reading", f"{tell(things)}. {rng.choice(DESCRIBE)}", tell(things))
    question, answer = ask(rng, things)
    return Turn("reading", f"{tell(things)}. {question}", answer)


def some_things(rng: random.Random, most: int, least: int = 1) -> list[Thing]:
    """So many things in different places, in reading order; shapes and colours may repeat."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(least, most)))
    return [(rng.choice(SHAPES), rng.choice(COLOURS), PLACES[n]) for n in places]


def tell(things: list[Thing]) -> str:
    """`red star top-left, blue ring bottom-right`."""
    return ", ".join(f"{colour} {shape} {place}" for shape, colour, place in things)


def ask(rng: random.Random, things: list[Thing], where: str = "") -> tuple[str, str]:
    """A question with one right answer about things; `where`: " in the first picture" or ""."""
    shape, colour, place = rng.choice(things)
    choices = [(f"What is {place}{where}?", f"{colour} {shape}")]
    if sum(thing[0] == shape for thing in things) == 1:
        choices.append((f"What colour is the {shape}{where}?", colour))
        choices.append((f"Where is the {shape}{where}?", place))
    if sum(thing[1] == colour for thing in things) == 1:
        choices.append((f"What shape is {colour}{where}?", shape))
    choices.append((f"How many shapes are there{where}?", NUMBERS[len(things)]))
    counted = rng.choice((colour, rng.choice(COLOURS)))
    count = sum(thing[1] == counted for thing in things)
    choices.append((f"How many shapes are {counted}{where}?", NUMBERS[count]))
    return rng.choice(choices)


def ask_of_two(rng: random.Random, both: tuple[list[Thing], list[Thing]]) -> tuple[str, str]:
    """A question about one of two pictures, or about which of the two."""
    shapes = [{thing[0] for thing in things} for things in both]
    only = [(shape, n) for n in range(2) for shape in sorted(shapes[n] - shapes[1 - n])]
    if only and rng.random() < 0.4:
        shape, n = rng.choice(only)
        return f"Which picture has a {shape}?", ORDER[n]
    n = rng.randrange(2)
    return ask(rng, both[n], f" in the {ORDER[n]} picture")


def text_turn(world: World, rng: random.Random, held_out: bool, kind: str | None = None) -> Turn:
    """One exchange, held out or for training; `kind`: one of KINDS, or any by its `SHARES`."""
    kind = kind or rng.choices(KINDS, SHARES)[0]
    if kind == "facts":
        return world.fact(rng, held_out)
    if kind == "arithmetic":
        return arithmetic(rng, held_out)
    return instruction(rng) if kind == "instructions" else reading(rng)
