"""ScienceQA: school questions with choices, about half of them with a picture.

Read are `problems.json` and the folder of images of lupantech/ScienceQA, in the layout that its
README describes: `answer` counts from 0, `hint` is empty where there is none, and the picture lies
at `<split>/<id>/image.png`. A question has one picture at most.
"""

from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.scoring.score import with_choices

from .fields import existing, field, read_json, texts, turn


def read_scienceqa(problems: str | Path, images: str | Path, split: str = "test") -> list[Item]:
    """Items scored by choice, counted by subject, with and without a picture.

    Args:
        problems: `problems.json`: by id, `question`, `choices`, `answer` (a place from 0), `hint`,
            `image` (a name or null), `subject` and `split`.
        images: folder of `<split>/<id>/<image>`.
        split: which of the file.

    Raises:
        WingsError: a missing file or field, no such picture, an answer that is no place, no
            question of the split.
    """
    records = read_json(problems)
    items = []
    for key in field({"file": records}, "file", dict, str(problems)):
        where = f"{problems}: problem {key}"
        one = field(records, key, dict, where)
        if field(one, "split", str, where) != split:
            continue
        choices, place = texts(one, "choices", where), field(one, "answer", int, where)
        if not 0 <= place < len(choices):
            raise WingsError(f"{where}: answer is {place}, and there are {len(choices)} choices")
        pictures = []
        if one.get("image"):
            path = Path(images) / split / key / field(one, "image", str, where)
            pictures = [existing(path, where)]
        hint, question = field(one, "hint", str, where), field(one, "question", str, where)
        asked = with_choices(f"{hint}\n{question}" if hint else question, choices)
        subject = field(one, "subject", str, where)
        items.append(
            Item(
                f"{subject}, {'picture' if pictures else 'text'}",
                turn(asked, pictures),
                choices[place],
                "choice",
                tuple(choices),
            )
        )
    if not items:
        raise WingsError(f"{problems} has no problem of split {split!r}")
    return items
