"""Reads VQAv2: questions about COCO photographs, each answered by ten people.

Reads the files of visualqa.org's download page, in the layout documented there and used by the
authors' evaluation (GT-Vision-Lab/VQA). Only train and val have public annotations. Photographs may
be named as in COCO 2014 or, without the split, as in COCO 2017.
"""

from pathlib import Path

from wings.errors import WingsError
from wings.eval.items import Item

from .fields import SHORT, existing, field, read_json, turn


def read_vqav2(questions: str | Path, annotations: str | Path, images: str | Path) -> list[Item]:
    """Items scored by soft accuracy; their kind is the answer type (yes/no, number, other).

    Args:
        questions: `v2_OpenEnded_mscoco_*_questions.json`: a list `questions` of `question_id`,
            `image_id` and `question`.
        annotations: `v2_mscoco_*_annotations.json`: a list `annotations` of `question_id`,
            `answer_type`, `multiple_choice_answer` and ten `answers` with an `answer` each.
        images: folder of `COCO_*_<image_id, 12 digits>.jpg`, or of the digits alone.

    Raises:
        WingsError: a missing file, field or picture, or a question without annotation.
    """
    entries = field(read_json(questions), "questions", list, str(questions))
    annotated = {}
    for n, one in enumerate(field(read_json(annotations), "annotations", list, str(annotations))):
        annotated[field(one, "question_id", int, f"{annotations}: annotation {n}")] = one
    folder = Path(images)
    pictures = {path.stem.rpartition("_")[2]: path for path in sorted(folder.glob("*.jpg"))}
    items = []
    for n, one in enumerate(entries):
        where = f"{questions}: question {n}"
        key = field(one, "question_id", int, where)
        if key not in annotated:
            raise WingsError(
                f"{where}: {annotations} has no question_id {key}; pass the file of that split."
            )
        annotation, at = annotated[key], f"{annotations}: question_id {key}"
        answers = field(annotation, "answers", list, at)
        number = f"{field(one, 'image_id', int, where):012d}"
        picture = pictures.get(number, folder / f"COCO_{number}.jpg")
        items.append(
            Item(
                field(annotation, "answer_type", str, at),
                turn(f"{field(one, 'question', str, where)}\n{SHORT}", [existing(picture, where)]),
                field(annotation, "multiple_choice_answer", str, at),
                "vqa",
                references=tuple(field(person, "answer", str, at) for person in answers),
            )
        )
        if len(answers) < 2:
            raise WingsError(f"{at}: answers has {len(answers)} entries; VQAv2 has ten.")
    return items
