"""Requests with sounds and videos, answered by the application of `wings serve`."""

import base64
import io

import pytest
from audio_models import tiny_audio
from served import answer, model_with
from tiny import VISION
from videos import make_video

testclient = pytest.importorskip("fastapi.testclient", reason="needs wings-lorra[serve]")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from wings.serving.serve import build_app, example  # noqa: E402

LENGTH = 6


@pytest.fixture(scope="module")
def both():
    return model_with(image=VISION, audio=tiny_audio("whisper", pool=4))


@pytest.fixture(scope="module")
def hears():
    return model_with(audio=tiny_audio("whisper", pool=4))


@pytest.fixture(scope="module")
def flac():
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(20_000) / 20) / 2, 16_000, format="flac")
    return file.getvalue()


def coded(data):
    return base64.b64encode(data).decode()


def ask(pair, *parts, path="/v1/chat/completions", **body):
    """The answer's text, or the sentence of an error."""
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    field = "messages" if "chat" in path else "input"
    message = {"role": "user", "content": content}
    with testclient.TestClient(build_app("tiny", *pair), raise_server_exceptions=False) as client:
        found = client.post(path, json={field: [message], "max_tokens": LENGTH, **body})
    if found.status_code != 200:
        assert found.status_code == 400, found.text
        return found.json()["error"]["message"]
    return found.json()["choices"][0]["message"]["content"]


def expected(pair, *parts):
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    return answer(*pair, [{"role": "user", "content": content}], LENGTH)


def test_a_sound_and_a_video_are_answered_as_by_generate(both, flac):
    sound, video = coded(flac), make_video()
    wanted = expected(
        both, {"type": "audio", "audio": flac}, {"type": "video", "video": video}, "what?"
    )
    address = {"url": f"data:video/mp4;base64,{coded(video)}"}
    for heard in (
        {"type": "input_audio", "input_audio": {"data": sound, "format": "flac"}},
        {"type": "input_audio", "input_audio": {"data": sound}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/flac;base64,{sound}"}},
    ):
        found = ask(both, heard, {"type": "video_url", "video_url": address}, "what?")
        assert found == wanted
    assert wanted != expected(both, "what?")


def test_a_model_that_only_hears_is_served(hears, flac):
    heard = {"type": "input_audio", "input_audio": {"data": coded(flac), "format": "flac"}}
    assert ask(hears, heard, "what?") == expected(hears, {"type": "audio", "audio": flac}, "what?")
    assert "audio_url" in example("http://a", hears[1].senses)
    for part in ({"type": "image_url", "image_url": "https://a.b/c.png"},
                 {"type": "video_url", "video_url": {"url": "https://a.b/c.mp4"}}):  # fmt: skip
        assert "and this model does not see: leave it out." in ask(hears, part, "what?")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "input_audio", "input_audio": "/etc/hostname"}, "opens no files"),
        ({"type": "audio_url", "audio_url": {"url": "a.wav"}}, "has a sound at 'a.wav': send a U"),
        ({"type": "video_url", "video_url": {"url": "file:///a.mp4"}}, "opens no files"),
        ({"type": "video_url"}, "has a video at 'None'"),
        ({"type": "input_audio", "input_audio": {"data": "bm8gc291bmQ="}}, "readable sound"),
        ({"type": "input_audio", "input_audio": {"data": 7}}, "readable sound"),
        ({"type": "video_url", "video_url": {"url": "data:,none"}}, "readable video"),
        ({"type": "audio", "audio": "/etc/hostname"}, "send parts of the types text"),
        ({"type": "video", "video": "/etc/hostname"}, "send parts of the types text"),
        ({"type": ["text"]}, "send parts of the types text"),
    ],
)
def test_what_is_wrong_is_a_sentence(both, part, words):
    found = ask(both, part, "what?")
    assert words in found and found.endswith(".") and "\n" not in found
