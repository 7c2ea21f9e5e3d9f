"""Folders that a command writes: whose they are, what is removed, who holds the lock."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from wings.errors import WingsError
from wings.output_folder import OutputFolder, make_readable

HOLD = """
import multiprocessing, sys, time
from wings.output_folder import OutputFolder
def sleep():
    time.sleep(60)
with OutputFolder(sys.argv[1], "wings eval").locked():
    child = multiprocessing.get_context("fork").Process(target=sleep)
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def content(folder):
    """All files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["a.txt", ".hidden", "writing-notes/n", ".x.draft", "data/x/y"])
def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    folder = OutputFolder(tmp_path, "wings eval")
    for work in (folder.validate, folder.claim, folder.locked().__enter__):
        with pytest.raises(WingsError, match=r"without a mark of wings eval \(.*new or empty"):
            work()
    folder.remove()
    assert content(tmp_path) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_an_empty_folder_is_marked(tmp_path, there):
    path = tmp_path / "a" / "b"
    if there:
        path.mkdir(parents=True)
    folder = OutputFolder(path, "wings eval")
    folder.validate()
    assert path.exists() == there
    folder.claim()
    OutputFolder(path, "wings eval").claim()
    with pytest.raises(WingsError, match="was written by wings eval; choose another folder for"):
        OutputFolder(path, "wings shift").claim()


def test_only_recorded_names_are_replaced_or_removed(tmp_path):
    folder = OutputFolder(tmp_path / "out", "wings eval")
    folder.claim()
    folder.write("report.json", "1")
    folder.write("report.json", "2")
    (folder.path / "report.html").write_text("mine")
    (folder.path / "notes").mkdir()
    with pytest.raises(WingsError, match=r"report\.html was not written by wings eval"):
        folder.write("report.html", "3")
    with pytest.raises(ValueError):
        folder.discard("notes")
    folder.draft("data").joinpath("x").write_text("half")
    folder.remove()
    assert content(folder.path) == {"report.html": b"mine"}
    assert sorted(os.listdir(folder.path)) == ["notes", "report.html"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"maker": 1, "names": []}', '{"a": 1}'])
def test_a_torn_mark_is_a_sentence_and_nothing_is_touched(tmp_path, damage):
    folder = OutputFolder(tmp_path / "out", "wings eval")
    folder.claim()
    folder.write("report.json", "1")
    (folder.path / ".wings" / "mark.json").write_text(damage)
    for work in (folder.claim, folder.remove, folder.validate):
        with pytest.raises(WingsError, match=r"mark\.json is not readable"):
            work()
    assert (folder.path / ".wings" / "mark.json").read_text() == damage


def test_a_name_is_recorded_before_its_file_is_made(tmp_path, monkeypatch):
    folder = OutputFolder(tmp_path / "out", "wings eval")
    folder.claim()
    seen = []
    replace = os.replace

    def watched(source, target):
        if str(target).endswith("report.json"):
            seen.append(json.loads((folder.path / ".wings" / "mark.json").read_text())["names"])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    folder.write("report.json", "1")
    assert seen == [["report.json"]]


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    one, two = (OutputFolder(tmp_path / "out", "wings eval") for _ in range(2))
    with one.locked(), pytest.raises(WingsError, match="another process"), two.locked():
        pass
    with two.locked():
        pass


def wait_until_free(folder, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with folder.locked():
                return
        except WingsError:
            time.sleep(0.1)


def test_a_dead_process_keeps_no_lock_even_if_its_children_live(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    folder = OutputFolder(tmp_path / "out", "wings eval")
    try:
        with pytest.raises(WingsError, match="another process is writing"), folder.locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)
        # The child drops the lock when it first runs, which takes a moment on a busy machine.
        wait_until_free(folder)
        with folder.locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def enter(path, barrier, results):
    barrier.wait()
    try:
        with OutputFolder(path, "wings eval").locked():
            results.put("in")
            time.sleep(0.5)
    except WingsError:
        results.put("refused")


def test_of_many_that_begin_at_once_one_gets_a_new_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    arguments = (tmp_path / "out", barrier, results)
    children = [context.Process(target=enter, args=arguments) for _ in range(8)]
    for child in children:
        child.start()
    found = sorted(results.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert found == ["in", *["refused"] * 7]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_not_stop_a_run(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = OutputFolder(tmp_path / "out", "wings eval")
    with folder.locked():
        assert folder.is_claimed
        folder.write("report.json", "1")
    assert (folder.path / "report.json").read_text() == "1"
    with pytest.raises(WingsError, match="was written by wings eval"):
        OutputFolder(folder.path, "wings shift").validate()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_the_umask(tmp_path, umask):
    file = tmp_path / "model.safetensors"
    file.touch()
    file.chmod(0o600)
    before = os.umask(umask)
    try:
        make_readable([file, tmp_path / "missing"])
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
