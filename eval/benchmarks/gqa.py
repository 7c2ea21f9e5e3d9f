"""Reads GQA: questions generated from scene graphs, with one short answer each.

Reads a question file of GQA's download page (an object from question id to record, with the fields
listed there) and its folder of images. lmms-eval uses `testdev_balanced_questions.json`. The test
and challenge files have neither answers nor types. GQA's own metric is exact match, lmms-eval
ignores case and punctuation; here answers are normalised as for VQA.
"""

from pathlib import Path

from wings.eval.items import Item

from .fields import SHORT, existing, field, read_json, turn


def read_gqa(questions: str | Path, images: str | Path) -> list[Item]:
    """Items scored as short answers; their kind is the structural type (query, verify, ...).

    Args:
        questions: `*_questions.json`: by id, `question`, `imageId`, `answer` and `types`.
        images: folder of `<imageId>.jpg`.

    Raises:
        WingsError: a missing file, field or picture.
    """
    records = read_json(questions)
    items = []
    for key in field({"file": records}, "file", dict, str(questions)):
        where = f"{questions}: question {key}"
        one = field(records, key, dict, where)
        picture = Path(images) / f"{field(one, 'imageId', str, where)}.jpg"
        items.append(
            Item(
                field(field(one, "types", dict, where), "structural", str, where),
                turn(f"{field(one, 'question', str, where)}\n{SHORT}", [existing(picture, where)]),
                field(one, "answer", str, where),
                "short",
            )
        )
    return items
