"""Formats: every spelling of a conversation becomes the same messages."""

from pathlib import Path

import pytest

from wings.errors import WingsError
from wings.records.formats import items_of, to_messages


def text(words):
    return {"type": "text", "text": words}


def image(path):
    return {"type": "image", "image": Path("pics") / path}


EXPECTED = [
    {"role": "user", "content": [image("a.png"), text("What is it?")]},
    {"role": "assistant", "content": [text("A cat.")]},
    {"role": "user", "content": [text("And "), image("b.png"), text("?")]},
    {"role": "assistant", "content": [text("A dog.")]},
]


@pytest.mark.parametrize(
    "record",
    [
        {
            "id": "1",
            "image": ["a.png", "b.png"],
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A cat."},
                {"from": "human", "value": "And <image>?"},
                {"from": "gpt", "value": "A dog."},
            ],
        },
        {
            "images": ["a.png", {"bytes": None, "path": "b.png"}],
            "messages": [
                {"role": "user", "content": "<image>\nWhat is it?"},
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": [text("And "), {"type": "image"}, text("?")]},
                {"role": "assistant", "content": [text("A dog.")]},
            ],
        },
        {
            "messages": [
                # Arrow fills the keys that only other parts have with None.
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "a.png", "text": None},
                        {"type": "text", "image": None, "text": "What is it?"},
                    ],
                },
                {"role": "assistant", "content": "A cat."},
                {
                    "role": "user",
                    "content": [text("And "), {"type": "image", "path": "b.png"}, text("?")],
                },
                {"role": "assistant", "content": "A dog."},
            ]
        },
    ],
)
def test_all_formats_give_the_same_messages(record):
    assert to_messages(record, "pics") == EXPECTED


def test_a_record_without_image_and_with_system_turn():
    record = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "1+1?"},
            {"from": "gpt", "value": "2"},
        ]
    }
    messages = to_messages(record, "pics")
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == [text("1+1?")]


def test_bytes_and_absolute_paths_pass_through():
    turns = [
        {"role": "user", "content": "<image><image>"},
        {"role": "assistant", "content": "Two."},
    ]
    messages = to_messages({"images": [{"bytes": b"abc"}, "/x/y.png"], "messages": turns}, "pics")
    assert [p["image"] for p in messages[0]["content"]] == [b"abc", Path("/x/y.png")]


def talk(*pairs, **more):
    return {"conversations": [{"from": who, "value": words} for who, words in pairs], **more}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "hi"}, "no .conversations."),
        (talk(), "empty"),
        ({"conversations": "hello"}, "not a list"),
        (talk(("human", "hi")), "no answer"),
        (talk(("gpt", "hi"), ("human", "hi")), "must alternate"),
        (talk(("human", "a"), ("human", "b"), ("gpt", "c")), "user, user, assistant"),
        (talk(("human", "a"), ("gpt", "  ")), "an answer is empty"),
        (talk(("humam", "a"), ("gpt", "b")), "did you mean 'human'"),
        (talk(("human", "<image>a"), ("gpt", "b")), "1 image placeholders for 0 images"),
        (talk(("human", "a"), ("gpt", "b"), image="a.png"), "0 image placeholders for 1 images"),
        (talk(("human", "<image>"), ("gpt", "b"), image=["a", "b"]), "1 image placeholders for 2"),
        (talk(("human", "<image>"), ("gpt", "b"), image=[7]), "not a path or bytes"),
        ({"conversations": [{"from": "human", "value": None}]}, "needs 'from' and a text 'value'"),
        ({"messages": [{"role": "user", "content": None}]}, "needs 'role' and 'content'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "a text, an image, audio or a video",
        ),
    ],
)
def test_odd_records_are_refused(record, words):
    with pytest.raises(WingsError, match=words):
        to_messages(record, "pics")


def test_thoughts_of_an_answer_are_kept_and_what_would_be_lost_is_refused():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    thinks = [turns[0], {**turns[1], "reasoning_content": "hm", "tool_calls": None, "id": 3}]
    (question, answer) = to_messages({"messages": thinks, "tools": []}, "pics")
    assert answer["reasoning_content"] == "hm" and "reasoning_content" not in question
    for key in ("tool_calls", "function_call", "thinking", "reasoning"):
        with pytest.raises(WingsError, match=f"a turn has '{key}'"):
            to_messages({"messages": [turns[0], {**turns[1], key: "x"}]}, "pics")
    with pytest.raises(WingsError, match="it has 'tools'"):
        to_messages({"messages": turns, "tools": [{"name": "x"}]}, "pics")
    with pytest.raises(WingsError, match="not a text"):
        to_messages({"messages": [turns[0], {**turns[1], "reasoning_content": 3}]}, "pics")


def test_addresses_are_no_file_names():
    for source in ("https://example.org/x.png", "HTTP://x/y", "data:image/png;base64,AAAA"):
        record = {"caption": "a", "image": source}
        assert to_messages(record, "pics")[0]["content"][0]["image"] == source
    assert to_messages({"caption": "a", "image": "data/x.png"}, "pics")[0]["content"][0] == image(
        "data/x.png"
    )


@pytest.mark.parametrize("text", [None, 3, ["a"], {}])
def test_an_exchange_without_a_text_is_refused(text):
    with pytest.raises(WingsError, match="needs a text for 'user' and 'assistant'"):
        to_messages({"texts": [{"user": "a", "assistant": text}]}, "pics")


def sound(path):
    return {"type": "audio", "audio": Path("pics") / path}


HEARD = [
    {"role": "user", "content": [sound("a.wav"), text("What was said?")]},
    {"role": "assistant", "content": [text("Six.")]},
    {"role": "user", "content": [image("b.png"), text(" and "), sound("c.ogg")]},
    {"role": "assistant", "content": [text("Both.")]},
]


@pytest.mark.parametrize(
    "record",
    [
        {
            "audio": ["a.wav", {"bytes": None, "path": "c.ogg"}],
            "image": "b.png",
            "conversations": [
                {"from": "human", "value": "<audio>\nWhat was said?"},
                {"from": "gpt", "value": "Six."},
                {"from": "human", "value": "<image> and <audio>"},
                {"from": "gpt", "value": "Both."},
            ],
        },
        {
            "audios": ["a.wav"],
            "messages": [
                {"role": "user", "content": [{"type": "audio"}, text("What was said?")]},
                {"role": "assistant", "content": "Six."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "b.png", "audio": None}, text(" and "),
                        {"type": "audio", "audio": "c.ogg", "image": None},
                    ],
                },
                {"role": "assistant", "content": "Both."},
            ],
        },
    ],
)  # fmt: skip
def test_sounds_are_read_as_images_are(record):
    assert to_messages(record, "pics") == HEARD


def test_samples_and_captions_of_sounds():
    samples = {"array": [0.0, 0.1], "sampling_rate": 8000}
    messages = to_messages({"audio": samples, "text": "a hum"}, "pics")
    assert messages[0]["content"] == [{"type": "audio", "audio": samples}]
    assert messages[1]["content"] == [text("a hum")]


@pytest.mark.parametrize(
    ("question", "sounds", "message"),
    [
        ("<audio><audio>", ["a.wav"], "2 audio placeholders for 1 sounds"),
        ("no place", ["a.wav"], "0 audio placeholders for 1 sounds"),
        ([{"type": "audio"}], [], "1 audio placeholders for 0 sounds"),
        ("<audio>", [7], "a sound is '7', not a path or bytes"),
    ],
)
def test_sounds_and_their_places_agree(question, sounds, message):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]
    with pytest.raises(WingsError, match=message):
        to_messages({"messages": turns, "audio": sounds}, "pics")


def test_without_a_sound_the_letters_of_its_placeholder_are_text():
    turns = [
        {"role": "user", "content": "<audio> is a tag"}, {"role": "assistant", "content": "yes"},
    ]  # fmt: skip
    assert to_messages({"messages": turns}, "pics")[0]["content"] == [text("<audio> is a tag")]


def video(source, **options):
    return {"type": "video", "video": source, **options}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"video": "a.mp4"}, [Path("pics/a.mp4")]),
        ({"videos": ["a.mp4", {"bytes": b"abc", "path": "x"}]}, [Path("pics/a.mp4"), b"abc"]),
        ({"video": ["1.png", {"bytes": b"two"}]}, [[Path("pics/1.png"), b"two"]]),
        ({"videos": [["1.png"], "https://a.b/c"]}, [[Path("pics/1.png")], "https://a.b/c"]),
    ],
)
def test_videos_are_one_or_a_list_and_a_list_in_place_of_one_is_its_frames(record, expected):
    place = "<video>" * len(expected)
    (question, _) = to_messages(talk(("human", f"{place}\na"), ("gpt", "b"), **record), "pics")
    assert question["content"] == [*map(video, expected), text("a")]
    assert items_of([question]) == [("image", source) for source in expected]
    (captioned, _) = to_messages({"caption": "b", **record}, "pics")
    assert captioned["content"] == question["content"][:-1]


def test_options_of_a_video_stay_with_its_part():
    part = {**video("a.mp4", fps=2, max_frames=None), "text": None}
    turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "yes"}]
    assert to_messages({"messages": turns}, "pics")[0]["content"] == [
        video(Path("pics/a.mp4"), fps=2)
    ]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            talk(("human", "<video><video>"), ("gpt", "b"), video="a"),
            "2 video placeholders for 1 v",
        ),
        (talk(("human", "a"), ("gpt", "b"), video="a.mp4"), "0 video placeholders for 1 videos"),
        (talk(("human", "<video>"), ("gpt", "b"), videos=[7]), "a video is '7', not a path or by"),
        (talk(("human", "<video>"), ("gpt", "b"), video=[7]), "an image is '7', not a path or by"),
    ],
)
def test_videos_and_their_places_agree(record, words):
    with pytest.raises(WingsError, match=words):
        to_messages(record, "pics")
    letters = to_messages(talk(("human", "<video>"), ("gpt", "b"), video=[]), "pics")
    assert letters[0]["content"] == [text("<video>")]
