"""Questions with their answers, as chat messages and in JSON Lines files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# topic -> (question, "subject answer" pairs): facts that a small LLM knows
FACTS = {
    "capitals": (
        "What is the capital of {}?",
        "France Paris|Italy Rome|Spain Madrid|Germany Berlin|Japan Tokyo|China Beijing"
        "|Russia Moscow|Egypt Cairo|Greece Athens|Portugal Lisbon|Austria Vienna|Poland Warsaw"
        "|Ireland Dublin|Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen"
        "|Hungary Budapest|Cuba Havana|Peru Lima|Kenya Nairobi|India Delhi|Thailand Bangkok"
        "|Vietnam Hanoi|Iran Tehran|Iraq Baghdad|Canada Ottawa|Mexico Mexico|Argentina Buenos"
        "|Chile Santiago|Belgium Brussels|Scotland Edinburgh|Wales Cardiff|England London"
        "|Turkey Ankara|Lebanon Beirut|Syria Damascus|Cambodia Phnom|Bulgaria Sofia"
        "|Romania Bucharest|Serbia Belgrade|Croatia Zagreb|Ukraine Kyiv|Latvia Riga"
        "|Estonia Tallinn|Iceland Reykjavik|Indonesia Jakarta|Philippines Manila|Malaysia Kuala"
        "|Australia Canberra",
    ),
    "opposites": (
        "What is the opposite of the word '{}'?",
        "hot cold|big small|fast slow|happy sad|day night|up down|left right|open closed|hard soft"
        "|old young|rich poor|wet dry|strong weak|early late|full empty|light dark|high low"
        "|long short|good bad|loud quiet|clean dirty|heavy light|deep shallow|wide narrow"
        "|brave cowardly|alive dead|cheap expensive|near far",
    ),
    "languages": (
        "Which language do most people in {} speak?",
        "Brazil Portuguese|Mexico Spanish|Austria German|Egypt Arabic|Iran Persian|Japan Japanese"
        "|China Chinese|Argentina Spanish|Italy Italian|France French|Russia Russian|Sweden Swedish"
        "|Poland Polish|Greece Greek|Turkey Turkish|Thailand Thai|Vietnam Vietnamese"
        "|Hungary Hungarian|Portugal Portuguese|Israel Hebrew",
    ),
    "continents": (
        "On which continent is {}?",
        "Kenya Africa|Brazil South America|Japan Asia|Germany Europe|Nigeria Africa|India Asia"
        "|Peru South America|Spain Europe|Egypt Africa|China Asia|Canada North America"
        "|Sweden Europe|Ghana Africa|Vietnam Asia|Italy Europe|Chile South America|Morocco Africa"
        "|Poland Europe|Mongolia Asia|Greece Europe",
    ),
}


@dataclass(frozen=True)
class Exchange:
    """A question and its right answer; `kind` is the group in which the answer is counted."""

    kind: str
    question: str
    answer: str

    def messages(self, pictures: Sequence[str] = ()) -> list[dict]:
        """A user's and an assistant's message; the files `pictures` precede the question."""
        content: str | list[dict] = self.question
        if pictures:
            images = [{"type": "image", "image": name} for name in pictures]
            content = [*images, {"type": "text", "text": self.question}]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": self.answer}]


def fact_questions(topics: Iterable[str] = tuple(FACTS)) -> list[tuple[str, str]]:
    """Every question of some topics, with the words that a right answer contains."""
    pairs = []
    for question, facts in map(FACTS.__getitem__, topics):
        for fact in facts.split("|"):
            subject, answer = fact.split(" ", 1)
            pairs.append((question.format(subject), answer))
    return pairs


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Writes one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict]:
    """Reads the records that `write_lines` wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
