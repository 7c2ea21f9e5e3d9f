"""`wings chat`: a conversation goes on from its cache, and what is typed is obeyed or refused."""

import io
import shutil

import pytest
from videos import make_video

from wings.cli import main
from wings.cli.chat import CachedSession, load
from wings.cli.chat_files import picture_parts, video_parts


@pytest.fixture
def pictures(data):
    return sorted(str(path) for path in (data / "img").iterdir())[:2]


def said_at_once(session, turns, max_new_tokens):
    """The last answer of a conversation that is computed from its beginning."""
    fresh = CachedSession(session.model, session.processor)
    fresh.messages = session.messages[: 2 * turns - 2]
    user = session.messages[2 * turns - 2]["content"]
    fresh.items = user[:-1]
    return fresh.say(user[-1]["text"], max_new_tokens)


def test_a_conversation_goes_on_from_its_cache_with_a_new_picture(checkpoint, pictures):
    session = load(str(checkpoint))
    session.items = picture_parts(session.processor, pictures[0])
    first = session.say("What is top-left?", 5)
    cached = session.cache
    session.items += picture_parts(session.processor, pictures[1])
    second = session.say("Where is the star?", 5)
    third = session.say("Repeat: red star", 5)
    assert session.cache is cached
    assert [first, second, third] == [said_at_once(session, n, 5) for n in (1, 2, 3)]


def test_a_history_that_was_told_otherwise_is_computed_from_where_it_differs(checkpoint):
    session = load(str(checkpoint))
    session.say("What is top-left?", 3)
    session.messages[-1]["content"] = "something that was never said"
    session.say("Where is the star?", 3)
    assert session.messages[-1]["content"] == said_at_once(session, 2, 3)


def test_lines_of_standard_input(checkpoint, pictures, monkeypatch, capsys):
    lines = ["What is this?", f"/image {pictures[1]}", "And this?", "/quit", "Not asked."]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    arguments = ["chat", str(checkpoint), "--image", pictures[0], "--max-new-tokens", "3"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("wings  ") == 2 and "And this?" in said and "Not asked." not in said


def test_a_wrong_line_gets_a_sentence_and_the_talk_goes_on(checkpoint, monkeypatch, capsys):
    lines = ["/picture a.png", "/image nowhere.png", "Repeat: cat", "/new", "Repeat: dog"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(checkpoint), "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr().out
    assert "There is no command /picture" in said and "nowhere.png" in said
    assert said.count("wings  ") == 2


@pytest.mark.parametrize("argument", ["nowhere", "a/b"])
def test_no_checkpoint_is_one_sentence(argument, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["chat", str(tmp_path / argument)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wings chat: ") and argument in error and "Traceback" not in error


def test_a_missing_picture_is_refused_before_the_model_loads(checkpoint, capsys):
    assert main(["chat", str(checkpoint), "--image", "nowhere.png"]) == 2
    assert "nowhere.png" in capsys.readouterr().err


LETTERS = ["[/x] [red] :smile: [", "\ud800 odd", "\x1b[31m", "<image>", "<|end|>", "猫"]


def test_no_letters_of_a_user_end_the_chat(checkpoint, monkeypatch, capsys):
    lines = [*LETTERS, "/[/x]", "/image [/y].png", "Repeat: dog"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(checkpoint), "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr().out
    assert "[/x] [red] :smile: [" in said and "There is no command /[/x]" in said
    assert "[/y].png" in said and "Repeat: dog" in said


def test_a_turn_that_fails_in_its_middle_leaves_the_session_as_it_was(checkpoint, pictures):
    session = load(str(checkpoint))
    session.say("What is top-left?", 3)
    before = list(session.messages)

    class Breaks:
        calls = 0

        def put(self, value):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("the terminal is gone")

        def end(self):
            pass

    session.items += picture_parts(session.processor, pictures[0])
    with pytest.raises(RuntimeError, match="terminal"):
        session.say("Where is the star?", 5, Breaks())
    assert session.messages == before and not session.items
    session.say("Where is the star?", 3)
    assert session.messages[-1]["content"] == said_at_once(session, 2, 3)


def test_a_picture_whose_file_goes_away_stays_in_the_conversation(checkpoint, pictures, tmp_path):
    lent = tmp_path / "lent.png"
    shutil.copy(pictures[0], lent)
    session = load(str(checkpoint))
    session.items += picture_parts(session.processor, str(lent))
    lent.unlink()
    session.say("What is top-left?", 3)
    session.say("Where is the star?", 3)
    assert session.messages[-1]["content"] == said_at_once(session, 2, 3)


def test_a_video_is_watched_from_the_command_and_in_the_talk(
    checkpoint, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "a.mp4"
    file.write_bytes(make_video())
    session = load(str(checkpoint))
    session.items += video_parts(session.processor, str(file))
    assert [part["type"] for part in session.items] == ["text", "image"] * 8
    first = session.say("Where is the star?", 3)
    assert first == said_at_once(session, 1, 3)
    lines = ["What is this?", f"/video {file}", "And this?", "/video nowhere.mp4"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    command = ["chat", str(checkpoint), "--video", str(file), "--max-new-tokens", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("wings  ") == 2 and "Video 'nowhere.mp4' does not exist." in said
    assert main([*command[:2], "--video", "nowhere.mp4"]) == 2
    assert "nowhere.mp4" in capsys.readouterr().err
