"""docs/share.md from beginning to end, against a Hub on the loopback interface.

Training is that of docs/own-data.md with the tiny parts, for a step. Commands run in one process,
which is told where the Hub is before it imports anything.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import interpreter
from hub import Hub, yaml_of
from own_data import BLOCKS as OWN_DATA
from own_data import commands_of, write_data

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "share.md").read_text(encoding="utf-8").replace("ORG/", "anna/")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SERVERS = {"serve": "fastapi", "demo": "gradio"}
# What the page's own data page allows for a trial, and no evaluation in between.
QUICK = [
    "wings.learner_layers=[0,3]", "steps=1", "save_every=1", "batch_size=2",
    "evaluate.text_after_image=0", "evaluate.answers=0",
]  # fmt: skip
# Runs commands and blocks of Python one after another; the last line of stdout is a report.
DRIVER = """
import contextlib, io, json, os, re, signal, sys, threading, time, urllib.request

def ask(out, path):
    # A server runs until a signal: wait for its address, ask it, and send one.
    while not (found := re.search(r"http://127\\.0\\.0\\.1:\\d+", out.getvalue())):
        time.sleep(0.05)
    with urllib.request.urlopen(found[0] + path, timeout=60) as answer:
        out.write(f"status {answer.status}")
    os.kill(os.getpid(), signal.SIGINT)

report, space = [], {}
for kind, words in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if kind == "python":
            exec(words, space)
            code = type(space["model"]).__name__
        else:
            from wings.cli import main
            sys.stdin = io.StringIO("What is this?\\n/quit\\n")
            if path := {"serve": "/health", "demo": "/"}.get(words[0]):
                threading.Thread(target=ask, args=(out, path), daemon=True).start()
            code = main(words)
    report.append([kind, words, code, out.getvalue()])
print(json.dumps(report))
"""


def steps():
    """Commands and blocks of Python of the page in their order; servers are apart."""
    for language, block in BLOCKS:
        if language in ("python", ""):
            # The one without a language goes on from those before.
            yield "python", block
        for words in commands_of(block) if language == "bash" else ():
            if words[:2] == ["python3", "-m"] or words == ["hf", "auth", "login"]:
                continue
            assert words.pop(0) == "wings"
            if words[0] == "parts":
                words.append("--tiny")
            if words[0] == "train":
                words += QUICK
            if words[0] in SERVERS:
                if find_spec(SERVERS[words[0]]) is None:
                    continue
                words += ["--port", "0"]
            yield "wings", words


def test_the_page_runs_from_beginning_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, block in OWN_DATA:
        if language == "yaml" and (name := re.match(r"# (\w+\.yaml)\n", block)):
            Path(name[1]).write_text(block)
    write_data()
    todo = list(steps())
    with Hub() as hub:
        environment = hub.environment(tmp_path / "home")
        done = interpreter.run(["-c", DRIVER], environment, stdin=json.dumps(todo), timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout.splitlines()[-1])
        assert len(report) == len(todo)
        names = [words if kind == "python" else words[0] for kind, words, _, _ in report]
        for kind, words, code, _ in report:
            expected = "WingsForCausalLM" if kind == "python" else 0
            assert code == expected, (words, done.stderr[-3000:])
        said = {name: out for name, (_, _, _, out) in zip(names, report, strict=True)}
        check_repository(hub, said)
        for name in SERVERS:
            assert "status 200" in said.get(name, "status 200")


def check_repository(hub, said):
    """What the commands of the page left on the Hub, beside the files of the run."""
    repository = hub.repositories["anna/my-wings"]
    assert repository.private and len(repository.commits) == 2
    files = repository.files()
    card = files["README.md"].decode()
    assert Path("card.md").read_text() == card
    result = json.loads(Path("runs/instruct/result.json").read_text())
    assert f"| steps | 1 | {result['steps']} |" in card
    assert "| data | captions.jsonl | questions.jsonl, text.jsonl (text turns, share 0.5) |" in card
    assert "| seed | 0 | 0 |" in card and "wings-lorra" in card and "commit" in card
    figures = json.loads(Path("report/report.json").read_text())["measurements"]
    (entry,) = yaml_of(card)["model-index"]
    values = {one["task"]["name"]: one["metrics"][0]["value"] for one in entry["results"]}
    for title, name in (("Text alone", "text"), ("Text after an image", "conversations")):
        measured = next(iter(figures[name]["kinds"].values()))["after"]["percent"]
        assert values[title] == round(measured, 2)
    assert files["retention.png"].startswith(b"\x89PNG")
    assert files["model.safetensors"] == Path("runs/instruct/model.safetensors").read_bytes()
    content = b"".join(files.values())
    assert str(Path.cwd()).encode() not in content and b"What do bees make" not in content
    assert "What is this?" in said["chat"]
    code = hub.repositories["anna/my-wings-with-code"].files()
    assert sum(name.endswith(".py") for name in code) > 10
    assert "| steps | 1 | 1 |" in code["README.md"].decode()
    learners = hub.repositories["anna/my-learners"].files()
    assert len(learners["model.safetensors"]) < len(files["model.safetensors"]) / 2
    assert "--base-model names them" in said["push"]
