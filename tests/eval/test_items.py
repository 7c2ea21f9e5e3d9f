"""Items: read from the file that training reads, and refused with the line that is wrong."""

import json
from dataclasses import replace

import pytest

from wings.errors import WingsError
from wings.eval.documents import read_documents
from wings.eval.fingerprint import item_fingerprint
from wings.eval.items import Item, read_items, write_items
from wings.eval.senses import names_in


def write(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path


def exchange(question="How many?", answer="two"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_last_answer_is_the_reference_and_is_not_shown(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": exchange("a", "b") + exchange("c", "d")})
    (item,) = read_items(path)
    assert [m["content"] for m in item.messages] == ["a", "b", "c"]
    assert (item.answer, item.kind) == ("d", "all")


def test_pictures_are_found_beside_the_file(tmp_path):
    parts = [{"type": "image", "image": "img/1.png"}, {"type": "text", "text": "What?"}]
    path = write(tmp_path / "a.jsonl", {"kind": "see", "messages": exchange(parts)})
    (item,) = read_items(path)
    assert item.messages[0]["content"][0]["image"] == str(tmp_path / "img/1.png")
    assert item.kind == "see"


def test_an_answer_in_parts_is_joined(tmp_path):
    parts = [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]
    (item,) = read_items(write(tmp_path / "a.jsonl", {"messages": exchange("How many?", parts)}))
    assert item.answer == "two"


@pytest.mark.parametrize(
    "line", ["not json", "[]", "{}", '{"messages": []}', json.dumps({"messages": exchange()[:1]})]
)
def test_a_wrong_line_is_named(tmp_path, line):
    path = write(tmp_path / "a.jsonl", {"messages": exchange()})
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(WingsError, match=r"a\.jsonl line 2"):
        read_items(path)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "needs 'role' and 'content', got hello"),
        ({"content": "hello"}, "needs 'role' and 'content'"),
        ({"role": "user"}, "needs 'role' and 'content'"),
        (
            {"role": "user", "content": ["hello"]},
            "is a text, .* or a video, got hello",
        ),
        ({"role": "user", "content": [{"type": "sound", "sound": "1.wav"}]}, "got .*sound"),
        ({"role": "user", "content": "hello"}, "must alternate"),
    ],
)
def test_a_wrong_message_is_named(tmp_path, message, reason):
    path = write(tmp_path / "a.jsonl", {"messages": [*exchange(), message, *exchange()]})
    with pytest.raises(WingsError, match=rf"a\.jsonl line 1: .*{reason}.*\.$"):
        read_items(path)


def test_a_missing_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(WingsError, match=r"nowhere\.jsonl"):
        read_items(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(WingsError, match="contains no records"):
        read_items(tmp_path / "empty.jsonl")


def test_a_circle_is_written_and_read(tmp_path):
    item = Item("k", ({"role": "user", "content": "?"},), "a", "choice", ("a", "b"), circle="t 1")
    write_items(tmp_path / "a.jsonl", [item])
    assert read_items(tmp_path / "a.jsonl") == [item]
    path = write(tmp_path / "a.jsonl", {"messages": exchange(), "circle": 1})
    with pytest.raises(WingsError, match=r"a\.jsonl line 1: circle is 1; give the name"):
        read_items(path)


def test_a_cluster_is_written_and_read(tmp_path):
    item = Item("k", ({"role": "user", "content": "?"},), "a", cluster="drawing 1")
    write_items(tmp_path / "a.jsonl", [item])
    assert read_items(tmp_path / "a.jsonl") == [item]
    path = write(tmp_path / "a.jsonl", {"messages": exchange(), "cluster": 1})
    with pytest.raises(WingsError, match=r"a\.jsonl line 1: cluster is 1; give the name"):
        read_items(path)


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\x0bb"])
def test_separators_within_a_text_end_no_record(tmp_path, text):
    item = Item("k", ({"role": "user", "content": text},), text)
    write_items(tmp_path / "a.jsonl", [item, item])
    assert read_items(tmp_path / "a.jsonl") == [item, item]
    (tmp_path / "h.jsonl").write_text(
        json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8"
    )
    (document,) = read_documents([tmp_path / "h.jsonl"])
    assert document.text == text


@pytest.mark.parametrize("name", ["scorings", "scorin", "choises", "choice", "reference", "check"])
def test_a_misspelt_field_is_not_passed_over(tmp_path, name):
    path = write(tmp_path / "a.jsonl", {"messages": exchange(), name: "mention"})
    with pytest.raises(WingsError, match=rf"a\.jsonl line 1 has a field '{name}'; rename it to"):
        read_items(path)
    # What else a record says of itself is its own.
    write(path, {"messages": exchange(), "id": 7, "source": "me", "language": "en"})
    assert read_items(path)[0].answer == "two"


@pytest.mark.parametrize("kind", [5, None, ["a"], {"a": 1}])
def test_a_kind_is_a_text(tmp_path, kind):
    path = write(tmp_path / "a.jsonl", {"messages": exchange(), "kind": kind})
    with pytest.raises(WingsError, match=r"a\.jsonl line 1: kind is"):
        read_items(path)


def test_videos_are_seen_written_again_and_told_apart(tmp_path):
    for name in ("a.mp4", "1.png", "2.png"):
        (tmp_path / name).write_bytes(name.encode())
    frames = {"type": "video", "video": ["1.png", "2.png"], "fps": 2}
    for number, part in enumerate((frames, {"type": "video", "video": "a.mp4"})):
        parts = [part, {"type": "text", "text": "What?"}]
        (item,) = read_items(write(tmp_path / f"{number}.jsonl", {"messages": exchange(parts)}))
        assert names_in(item.messages) == ("image",)
        write_items(tmp_path / "again.jsonl", [item])
        assert read_items(tmp_path / "again.jsonl") == [item]
        before = item_fingerprint(item)
        (tmp_path / "2.png").write_bytes(f"other {number}".encode())
        (tmp_path / "a.mp4").write_bytes(f"other {number}".encode())
        assert item_fingerprint(item) != before
    faster = {**item.messages[0]["content"][0], "fps": 9}
    other = replace(item, messages=({"role": "user", "content": [faster]},))
    assert item_fingerprint(other) != item_fingerprint(
        replace(item, messages=({"role": "user", "content": [{**faster, "fps": 8}]},))
    )
