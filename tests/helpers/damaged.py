"""Training records, damaged in many ways; each way says whether the record can still be used."""

import base64
import copy
import io
import json
import struct
import tarfile
import zlib

from PIL import Image

# What a damage leaves: a record that cannot be used, one that can, or either.
BAD, GOOD, EITHER = "bad", "good", "either"
ODD_VALUES = [
    None, True, 0, -1, 2.5, float("nan"), 10**40, "", " ", "\n", "\x00", "\ud800",
    "\ue0a20\ue0a3", "x" * 20_000, [], [[]], {}, {"a": None}, [None], "<image>",
    "<|end|>", "data:", "data:,", "http://",
    "\u202e", "\N{PILE OF POO}",
]  # fmt: skip


def png(colour="red", size=(6, 5)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def png_of_size(width, height):
    """A header with this size, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk
        + struct.pack(">I", zlib.crc32(chunk))
    )  # fmt: skip


def record(number):
    """A whole record of one of three spellings, with the image under `image`."""
    question, answer = "Which colour?", "red"
    spelling = number % 3
    if spelling == 0:
        turns = [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ]
        return {"id": number, "conversations": turns, "image": "p.png"}
    if spelling == 1:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        return {"id": number, "messages": messages, "images": ["p.png"]}
    return {"id": number, "caption": answer, "image": "p.png"}


def image_key(value):
    return "image" if "image" in value else "images"


def with_image(value, source):
    key = image_key(value)
    return {**value, key: source if key == "image" else [source]}


def places(value):
    """(mapping or list, its key or index) of all values in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def odd_value(value, draw):
    value = copy.deepcopy(value)
    place, key = draw.choice(list(places(value)))
    place[key] = draw.choice(ODD_VALUES)
    return value, EITHER


def lost_key(value, draw):
    value = copy.deepcopy(value)
    place, key = draw.choice(list(places(value)))
    del place[key]
    return value, EITHER


def odd_source(value, draw):
    """An image that is not where it should be, or is something else."""
    uri = "data:image/png;base64," + base64.b64encode(png(size=(40, 40))).decode()
    source, outcome = draw.choice(
        [
            (uri, GOOD), (uri.replace("data:", "DATA:"), GOOD),
            (uri[: len(uri) // 2], BAD), (uri.replace(",", ",%"), BAD), ("data:image/png", BAD),
            ("data:image/png;base64," + "A" * 200_000, BAD), ("x" * 6000, BAD), ("a\x00b.png", BAD),
            ("gone.png", BAD), ("pipe.png", BAD), ("folder.png", BAD), ("wide.png", BAD),
            ("http://127.0.0.1:9/x.png", BAD), ("http://[::1]/x.png", BAD), ("http://", BAD),
            ("https://localhost/x.png", BAD), ("http://0/x.png", BAD), ("text.png", BAD),
            ("../" * 50 + "gone.png", BAD), ("/dev/zero", BAD), ("\ud800.png", BAD),
            ({"bytes": None, "path": None}, BAD), ({"path": "p.png"}, GOOD), ({}, BAD), (3, BAD),
        ]
    )  # fmt: skip
    return with_image(value, source), outcome


def more_images(value, draw):
    return {**value, image_key(value): ["p.png"] * draw.randint(2, 9)}, EITHER


def harmless(value, draw):
    return {**value, "more": draw.choice([None, 3, "x" * 1000, {"a": [1]}])}, GOOD


VALUE_DAMAGES = [odd_value, lost_key, odd_source, more_images, harmless]


def deep(text, draw):
    depth = draw.choice([2_000, 100_000])
    return text[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}", BAD


def cut(text, draw):
    return text[: draw.randrange(1, len(text))], BAD


def flipped(text, draw):
    """One byte changed, but none that begins a new line."""
    place = draw.randrange(len(text))
    new = draw.choice([one for one in range(256) if one not in (10, 13)])
    return text[:place] + bytes([new]) + text[place + 1 :], EITHER


def no_utf8(text, draw):
    return text.replace(b"red", b"r\xffd"), BAD


def null_bytes(text, draw):
    place = draw.randrange(1, len(text))
    return text[:place] + b"\x00" * draw.randint(1, 9) + text[place:], BAD


def huge_number(text, draw):
    return text[:-1] + b', "n": ' + b"9" * 10_000 + b"}", BAD


def two_values(text, draw):
    return text + b" " + text, BAD


TEXT_DAMAGES = [deep, cut, flipped, no_utf8, null_bytes, huge_number, two_values]


def damaged_text(number, draw):
    """(JSON in one line, outcome) of a record; half of them are whole."""
    value, outcome = record(number), GOOD
    if draw.random() < 0.5:
        return json.dumps(value).encode(), outcome
    if draw.random() < 0.6:
        value, outcome = draw.choice(VALUE_DAMAGES)(value, draw)
        return json.dumps(value).encode(), outcome
    return draw.choice(TEXT_DAMAGES)(json.dumps(value).encode(), draw)


def in_a_list(text):
    """False for a text that changes where the entries of a JSON list end, or whether it is one."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return shape(text) in [shape(json.dumps(record(n)).encode()) for n in range(3)]
    return True


def shape(text):
    """The brackets, quotes and commas of a text, which alone decide where entries end."""
    return bytes(one for one in text if one in b'[]{}",\\')


def damaged_image(draw):
    """(bytes, outcome) of an image file."""
    whole = png()
    kind = draw.randrange(7)
    if kind == 0:
        return b"", BAD
    if kind == 1:
        return whole[: draw.randrange(1, len(whole) - 20)], BAD
    if kind == 2:
        return png_of_size(
            *draw.choice([(1, 150_000_000), (2**31 - 1, 2**31 - 1), (60_000, 60_000)])
        ), BAD
    if kind == 3:
        place = draw.randrange(len(whole))
        return whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :], EITHER
    if kind == 4:
        return b"not an image" * 9, BAD
    if kind == 5:
        return bytes(draw.randrange(256) for _ in range(90)), BAD
    return whole, GOOD


def write_shard(path, count, draw):
    """A tar with `count` records, and the outcome of each."""
    outcomes = []
    with tarfile.open(
        path, "w", format=draw.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    ) as tar:
        for number in range(count):
            key = f"{number:05}"
            if number % 50 == 7:
                key = f"k\udcff{number}"  # Bytes that are no UTF-8.
            image, outcome = (png(), GOOD) if draw.random() < 0.5 else damaged_image(draw)
            text, kind = b"A red square.", "txt"
            if draw.random() < 0.3:
                values = {k: v for k, v in record(number).items() if k[:5] != "image"}
                text, kind = json.dumps(values).encode(), "json"
                if draw.random() < 0.5:
                    damage = draw.choice([deep, cut, no_utf8, null_bytes, two_values])
                    text, outcome = damage(text, draw)
            elif draw.random() < 0.2:
                text, worse = draw.choice(
                    [(b"\xff\xfe", BAD), (b"", BAD), (b" ", BAD), (b"\x00", EITHER)]
                )
                outcome = worse if outcome == GOOD else outcome
            members = [(f"{key}.png", image), (f"{key}.{kind}", text)]
            if draw.random() < 0.05:
                members.append(draw.choice(members))
                outcome = BAD
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            outcomes.append(outcome)
    return outcomes
