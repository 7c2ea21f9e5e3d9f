"""GQA: questions made from scene graphs, with one short answer each.

Read are the question files of GQA's download page (one object from question id to record, with the
fields that the page lists; `testdev_balanced_questions.json` is the one that lmms-eval asks) beside
its folder of images. The test and challenge files have neither answers nor types. GQA's own figure
asks for the very answer, lmms-eval for it but for case and punctuation; here both are normalised as
for VQA.
"""

from pathlib import Path

from wings.eval.items import Item

from .fields import SHORT, existing, field, read_json, turn


def read_gqa(questions: str | Path, images: str | Path) -> list[Item]:
    """Items scored as short answers, counted by their structural type (query, verify, ...).

    Args:
        questions: `*_questions.json`: by id, `question`, `imageId`, `answer` and `types`.
        images: folder of `<imageId>.jpg`.

    Raises:
        WingsError: a missing file or field, no such picture.
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
