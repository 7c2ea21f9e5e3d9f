"""Sources: one path that is several files, tar shards, and what is refused of them."""

import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from wings.errors import WingsError
from wings.records.formats import items_of, to_messages
from wings.records.members import to_record
from wings.records.open_records import open_records
from wings.train.data.dataset import ConversationDataset
from wings.train.recipe import DataSource, Limits


def talk(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **more}


def picture(colour="red", kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(file, kind)
    return file.getvalue()


def write_tar(path, members, mode="w"):
    """A tar of (name, bytes or what becomes JSON)."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def read(path, **keys):
    return open_records(DataSource(str(path), **keys))


def shown(records, number):
    """Roles and parts of a record: texts, and pictures as bytes."""
    messages = to_messages(records[number], records.folder)
    return [part.get("text", part.get("image")) for one in messages for part in one["content"]]


def test_a_shard_gives_conversations_and_captions_by_number(tmp_path):
    red, blue, green = picture("red"), picture("blue", "JPEG"), picture("green")
    long = "deep/" * 40 + "x"  # longer than a plain tar header takes
    write_tar(
        tmp_path / "s.tar",
        [
            ("a/1.jpg", blue),
            ("a/1.json", talk("<image>\nWhat?", "Blue.", image="old/place/0815.jpg")),
            ("2.json", talk("<image><image> Which?", "The second.")),
            ("2.10.png", blue),
            ("2.9.png", red),
            ("2.cls", b"7"),
            ("._2.png", b"dirt"),
            ("3.PNG", green),
            ("3.txt", "Grün.\n".encode()),
            (f"{long}.json", talk("Nothing?", "No.")),
            ("4.json", talk("Far from its picture: <image>", "Yes.")),
            ("5.json", {"caption": "a caption", "url": "u", "width": 9}),
            ("5.jpg", blue),
            ("4.jpg", red),
        ],
    )
    records = read(tmp_path / "s.tar")
    assert len(records) == 6
    assert shown(records, 0) == [blue, "What?", "Blue."]
    assert shown(records, 1) == [red, blue, " Which?", "The second."]
    assert shown(records, 2) == [green, "Grün."]
    assert shown(records, 3) == ["Nothing?", "No."]
    assert shown(records, 4) == ["Far from its picture: ", red, "Yes."]
    assert shown(records, 5) == [blue, "a caption"]
    assert records.place(0).endswith("s.tar key a/1") and records.place(3).endswith(long)
    again = pickle.loads(pickle.dumps(records))
    assert again[4] == records[4] and again[0] == records[0]


def test_pictures_are_matched_by_name_or_by_number():
    pictures = {"a.png": b"A", "b.png": b"B"}
    assert to_record("k", {**pictures, "json": talk("", "", image=["x/k.b.png", "a.png"])})[
        "images"
    ] == [b"B", b"A"]
    part = {"type": "image", "image": "b.png"}
    chat = {"messages": [{"role": "user", "content": [part]}]}
    assert to_record("k", {**pictures, "json": chat})["messages"][0]["content"][0]["image"] == b"B"
    # Read by another library, JSON is a mapping already and a picture a mapping too.
    row = {"jpg": {"bytes": b"J", "path": None}, "json": {"conversations": [], "image": "9.jpg"}}
    assert to_record("k", row)["images"] == [{"bytes": b"J", "path": None}]


def test_a_shard_may_have_sounds_and_videos(tmp_path):
    several = talk("<video><audio>a<audio>", "b", video="k.mp4", audio=["2.10.wav", "2.9.wav"])
    parts = [{"type": "video", "video": "3.webm", "fps": 2}, {"type": "text", "text": "a"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]
    beside = talk("<video>a", "b", video="c.mp4")
    write_tar(
        tmp_path / "s.tar",
        [
            ("1.mp4", b"V"), ("1.txt", b"a goal"),
            ("2.json", several), ("2.10.wav", b"ten"), ("2.9.wav", b"nine"), ("2.mp4", b"W"),
            ("3.json", {"messages": chat}), ("3.webm", b"X"),
            ("4.json", beside),
        ],
    )  # fmt: skip
    records = read(tmp_path / "s.tar")
    found = [items_of(to_messages(records[n], records.folder)) for n in range(4)]
    assert found == [
        [("image", b"V")],
        [("image", b"W"), ("audio", b"ten"), ("audio", b"nine")],
        [("image", b"X")], [("image", tmp_path / "c.mp4")],
    ]  # fmt: skip
    assert to_messages(records[2], ".")[0]["content"][0]["fps"] == 2
    limits = Limits(video_bytes=0)
    with pytest.raises(WingsError, match=r"its \.mp4 has 1 bytes, more than limits.video_bytes"):
        open_records(DataSource(str(tmp_path / "s.tar")), limits)[0]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"jpg": b""}, "k has neither a conversation in .json nor a caption in .txt"),
        ({"json": b"{"}, "not JSON"),
        ({"json": b"[1]"}, "k.json holds list"),
        ({"txt": b"\xff", "jpg": b""}, "not UTF-8"),
        ({"json": talk("", "", image="a.jpg")}, "the shard has none under its key"),
        ({"jpg": b"", "json": talk("", "", image=["a", "b"])}, r"names 2 images \('a'\)"),
        ({"jpg": b"", "json": talk("", "", image=["k.jpg", "b"])}, r"names 2 images \('b'\)"),
    ],
)
def test_odd_members_are_refused(members, words):
    members = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in members.items()}
    with pytest.raises(WingsError, match=words):
        to_record("k", members)


def test_a_part_that_names_no_picture_of_the_shard_is_refused():
    chat = {"messages": [{"role": "user", "content": [{"type": "image", "image": "c.png"}]}]}
    with pytest.raises(WingsError, match=r"no image 'c\.png'"):
        to_record("k", {"a.png": b"A", "json": chat})


def test_a_bad_shard_is_refused_whole(tmp_path):
    members = [(f"{n}.{kind}", picture() * 9) for n in range(9) for kind in ("png", "txt")]
    write_tar(tmp_path / "good.tar", members)
    whole = (tmp_path / "good.tar").read_bytes()
    assert len(read(tmp_path / "good.tar")) == 9
    write_tar(tmp_path / "packed.tar", members, "w:gz")
    (tmp_path / "data.tar").write_bytes(whole[: len(whole) // 2])
    # Cut within a header, and a header that is no longer one: tarfile takes both for the end.
    second = 512 + (len(members[0][1]) + 511) // 512 * 512
    (tmp_path / "header.tar").write_bytes(whole[: second + 100])
    (tmp_path / "garbled.tar").write_bytes(whole[:second] + b"x" * 512 + whole[second + 512 :])
    (tmp_path / "none.tar").write_bytes(b"")
    for name in ("packed", "data", "header", "garbled", "none"):
        with pytest.raises(WingsError, match=rf"{name}\.tar: not readable as an uncompressed tar"):
            read(tmp_path / f"{name}.tar")
    write_tar(tmp_path / "empty.tar", [("readme.md", b"x")])
    with pytest.raises(WingsError, match=r"empty\.tar: contains no records"):
        read(tmp_path / "empty.tar")


def test_a_shard_that_goes_away_or_shrinks_is_a_bad_record(tmp_path, plain):
    write_tar(tmp_path / "s.tar", [("1.json", talk("a", "b")), ("2.json", talk("c", "d"))])
    data = ConversationDataset([DataSource(str(tmp_path / "s.tar"))], plain[1])
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:600])
    with pytest.raises(WingsError, match=r"s\.tar key 2: the shard .* shortened"):
        data[1]
    (tmp_path / "s.tar").unlink()
    with pytest.raises(WingsError, match=r"s\.tar key 1: the shard cannot be read any more"):
        data[0]


@pytest.fixture
def many(tmp_path):
    """Twelve numbered JSON Lines files with one record each, and as many shards."""
    for n in range(12):
        (tmp_path / f"part-{n:02}.jsonl").write_text(json.dumps(talk(str(n), "x")))
        write_tar(tmp_path / f"shard-{n:02}.tar", [("k.json", talk(str(n), "x"))])
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("part-*.jsonl", range(12)),
        ("part-0[13].jsonl", (1, 3)),
        ("**/part-1?.jsonl", (10, 11)),
        ("shard-{00..11}.tar", range(12)),
        ("shard-{0..1}{8..9}.tar", None),
        ("shard-{03..03}.tar", (3,)),
    ],
)
def test_a_pattern_is_one_source(many, pattern, numbers):
    if numbers is None:
        with pytest.raises(WingsError, match=r"2 of 4 files are missing: .*shard-18\.tar"):
            read(many / pattern)
        return
    records = read(many / pattern)
    found = [records[n]["conversations"][0]["value"] for n in range(len(records))]
    assert found == [str(n) for n in numbers]
    assert records.folder == many
    assert f"{numbers[-1]:02}." in records.place(len(records) - 1)


def test_a_folder_is_one_source_of_one_kind(many):
    with pytest.raises(WingsError, match=r"several types \(\.jsonl, \.tar\).*\*\.jsonl"):
        read(many)
    for shard in many.glob("*.tar"):
        shard.unlink()
    (many / "notes.md").write_text("not data")
    assert len(read(many)) == 12 and read(many).folder == many


def test_pictures_of_a_pattern_lie_where_it_begins(tmp_path, plain):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = json.dumps(talk("<image>", "x", image="pictures/p.png"))
        (tmp_path / name / "d.jsonl").write_text(lines)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "p.png").write_bytes(picture())
    data = ConversationDataset([DataSource(str(tmp_path / "*" / "d.jsonl"))], plain[1])
    assert len(data) == 2 and "pixel_values" in data[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no such data file.*split: train"),
        ("*.parquet", "no data files found"),
        ("shard-{9..1}.tar", "is descending"),
        ("*.md", "unknown file type '.md'"),
    ],
)
def test_paths_that_stand_for_nothing(many, name, words):
    (many / "notes.md").write_text("x")
    with pytest.raises(WingsError, match=words) as error:
        read(many / name)
    assert str(many) in str(error.value)
