"""Reads ScienceQA: school questions with choices, about half of them with a picture.

Reads `problems.json` and the folder of images of lupantech/ScienceQA, in the layout of its README:
`answer` counts from 0, `hint` may be empty, and pictures are at `<split>/<id>/image.png`. Each
question has at most one.
"""

from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import Item
from wings.eval.scoring.score import with_choices

from .fields import existing, field, read_json, texts, turn


def read_scienceqa(problems: str | Path, images: str | Path, split: str = "test") -> list[Item]:
    """Items scored by choice; their kind is the subject, with or without a picture.

    Args:
        problems: `problems.json`: by id, `question`, `choices`, `answer` (a place from 0), `hint`,
            `image` (a name or null), `subject` and `split`.
        images: folder of `<split>/<id>/<image>`.
        split: to read.

    Raises:
        WingsError: a missing file, field or picture, an answer out of range, no question of the
            split.
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
            raise WingsError(f"{where}: answer is {place}, but there are {len(choices)} choices.")
        pictures = []
        if one.get("image"):
            path = Path(images) / split / key / field(one, "image", str, where)
            pictures = [existing(path, where)]
        hint, question = field(one, "hint", str, where), field(one, "question", str, where)
        text = with_choices(f"{hint}\n{question}" if hint else question, choices)
        subject = field(one, "subject", str, where)
        items.append(
            Item(
                f"{subject}, {'picture' if pictures else 'text'}",
                turn(text, pictures),
                choices[place],
                "choice",
                tuple(choices),
            )
        )
    if not items:
        raise WingsError(f"{problems} has no problem of split {split!r}; name another split.")
    return items
