"""What is right without a look: the answer that training gave most often to the same question."""

from collections import Counter
from pathlib import Path

from wings.eval.items import read_items, text_of
from wings.eval.scoring.score import score

TRAINED = ("align", "instruct")


def guess(data: Path) -> dict[str, list[int]]:
    """Marks of the test's questions about pictures, by kind, if each gets its commonest answer.

    A row of the table that is no better has learned how people ask, and nothing of pictures.
    """
    answers: dict[str, Counter[str]] = {}
    for name in TRAINED:
        for item in read_items(data / f"{name}.jsonl"):
            asked = text_of(item.messages[-1]["content"])
            answers.setdefault(asked, Counter())[item.answer] += 1
    found: dict[str, list[int]] = {}
    for item in read_items(data / "pictures_test.jsonl"):
        said = answers.get(text_of(item.messages[-1]["content"]), Counter({"": 1}))
        found.setdefault(item.kind, []).append(int(score(item, said.most_common(1)[0][0])))
    return found
