"""docs/own-data.md: its blocks, the commands of a block, and the files that it names."""

import json
import re
import shlex
from pathlib import Path

from PIL import Image, ImageDraw

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COLOURS = ("red", "green", "blue", "yellow")
TEXTS = [("Which fruit is red?", "apple."), ("Which animal barks?", "dog."), ("1 + 1?", "2.")]


def asked(question, answer, picture=None):
    content = [{"type": "text", "text": question}]
    if picture is not None:
        content.insert(0, {"type": "image", "image": picture})
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def write(name, records):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


def write_data():
    """The files that the page names, with drawn pictures."""
    Path("pictures").mkdir()
    captions, questions, held, after = [], [], [], []
    for n in range(16):
        colour, shape = COLOURS[n % 4], ("circle", "square")[n // 4 % 2]
        picture = Image.new("RGB", (48, 40), "white")
        draw = getattr(ImageDraw.Draw(picture), {"circle": "ellipse", "square": "rectangle"}[shape])
        draw((8 + n % 3, 8, 36, 34), fill=colour)
        picture.save(f"pictures/{n}.png")
        if n < 12:
            answer = f"A {colour} {shape}."
            captions.append({"image": f"pictures/{n}.png", "caption": answer})
            questions.append({"messages": asked("What is this?", answer, f"pictures/{n}.png")})
        else:
            turns = asked("What colour?", f"{colour}.", f"../pictures/{n}.png")
            held.append({"messages": turns})
            after.append({"messages": turns + asked(*TEXTS[n % 3]), "scoring": "mention"})
    texts = [{"messages": asked(*text)} for text in TEXTS]
    for name, records in {
        "captions": captions, "questions": questions, "text": texts * 4, "held/pictures": held,
        "held/text": texts, "held/after": after,
    }.items():  # fmt: skip
        write(f"{name}.jsonl", records)


def commands_of(block):
    """The commands of a block of shell, as lists of words."""
    for line in block.splitlines():
        yield from (shlex.split(part) for part in line.split(" && "))
