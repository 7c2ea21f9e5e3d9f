"""Every way out of every command is a sentence and an exit code."""

import argparse
import io
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from wings.cli import build_parser, main
from wings.endings import PEER, ending_of, is_peer_lost, run_command
from wings.errors import WingsError

ERRORS = {
    "input": (WingsError("It is wrong."), 2, "It is wrong."),
    "keyboard": (KeyboardInterrupt(), 130, "stopped"),
    "pipe": (BrokenPipeError(32, "Broken pipe"), 141, "Nobody reads the output"),
    "disk": (OSError(28, "No space left on device", "/x/y"), 1, "No space left on device (/x/y)"),
    "disk, by Rust": (
        SafetensorError("I/O error: No space left on device (os error 28)"),
        1,
        "refused a file or a device: No space left on device (SafetensorError",
    ),
    "memory": (MemoryError(), 1, "The memory ran out"),
    "library": (RuntimeError("two\nlines"), 1, "RuntimeError: two lines; neither"),
    "no text": (KeyError(), 1, "KeyError; neither"),
    "recursion": (RecursionError("too deep"), 1, "RecursionError: too deep"),
    "odd letters": (ValueError("\ud800"), 1, "ValueError: \\ud800"),
}


def fail(error):
    raise error


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_sentence_and_a_code(name, capfd):
    error, code, said = ERRORS[name]
    assert run_command("wings x", lambda: fail(error)) == code
    printed = capfd.readouterr().err
    assert printed.startswith("wings x: ") and said in printed.replace("\\\\", "\\")
    assert printed.count("\n") == 1 and "Traceback" not in printed


def test_debug_shows_the_traceback(capfd):
    assert run_command("wings x", lambda: fail(RuntimeError("it broke")), debug=True) == 1
    printed = capfd.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1].startswith("wings x: RuntimeError")


@pytest.mark.parametrize("word", PEER)
def test_a_dead_peer_is_told_only_where_there_are_peers(word, monkeypatch):
    error = RuntimeError(f"[/x.cc:12] {word.title()} [127.0.0.1]:29500")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_peer_lost(error)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ending_of(error)[1].startswith("Another process of this run ended")


def test_exits_of_argparse_and_numbers_pass(capsys):
    assert run_command("wings x", lambda: 1) == 1
    assert run_command("wings x", lambda: "a folder") == 0
    with pytest.raises(SystemExit):
        run_command("wings x", lambda: sys.exit(3))


PARSER = build_parser()


def number_options():
    """`(command, option)` of every option that takes a number."""

    def walk(parser, words):
        for option in parser._actions:
            if isinstance(option, argparse._SubParsersAction):
                for name, inner in option.choices.items():
                    yield from walk(inner, [*words, name])
            elif option.type not in (None, str) and "Path" not in repr(option.type):
                yield " ".join(words), option.option_strings[0]

    return list(walk(PARSER, []))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "a", "1e400", "", "²"])
@pytest.mark.parametrize("command, option", number_options())
def test_numbers_out_of_bounds_are_refused(command, option, value, capsys):
    if value == "0" and option in ("--seed", "--seeds", "--keep-pictures"):
        return
    # Parsed and not run: a value that is taken would begin hours of work.
    with pytest.raises(SystemExit) as end:
        PARSER.parse_args([*command.split(), f"{option}={value}"])
    assert end.value.code == 2
    assert option in capsys.readouterr().err.replace("argument ", "")


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_is_taken_before_and_after_the_command(place, tmp_path, capsys):
    words = ["chat", str(tmp_path / "nowhere")]
    assert main(["--debug", *words] if place == "before" else [*words, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, **options)


def test_letters_that_a_terminal_cannot_show_are_escaped():
    code = (
        "from wings.cli.terminal import make_console; from wings.endings import run_command\n"
        "run_command('x', lambda: make_console().print('[/x] \\u732b \\ud800 [red]'))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run(code, env=environment)
    assert done.returncode == 0
    assert done.stdout.decode().strip() == "[/x] \\u732b \\ud800 [red]"


def test_bytes_that_are_no_text_do_not_end_a_command():
    code = (
        "import sys; from wings.endings import run_command\n"
        "run_command('x', lambda: print(ascii(sys.stdin.read())))"
    )
    done = run(code, input=b"a\xff\xfeb\n", env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.stdout.decode().strip() == ascii("a\ufffd\ufffdb\n")


def test_a_reader_that_leaves_ends_a_command_quietly():
    code = (
        "import sys; from wings.endings import run_command\n"
        "sys.exit(run_command('x', lambda: [print('line ' * 50) for _ in range(9999)]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.readline()
    child.stdout.close()
    said = child.stderr.read().decode()
    assert child.wait() == 141 and said.startswith("x: Nobody reads") and said.count("\n") == 1


def test_a_stream_without_a_file_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a"))
    assert run_command("x", lambda: None) == 0
