"""`wings push` against a Hub on the loopback interface, with the real client."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from interpreter import run
from safetensors.torch import load_file, save_file

GOES_UP = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json",
    "model.safetensors", "modeling_wings.py", "processor_config.json", "recipe.yaml", "result.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def files_of(hub, name, revision="main"):
    files = hub.repositories[name].files(revision)
    files.pop(".gitattributes", None)
    return files


def snapshot(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(done, code, *words):
    """The command ended with one sentence that has all of these words."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("wings push: ") and lines[0].endswith("."), lines
    assert all(word in lines[0] for word in words), lines[0]
    assert not re.search(r"\. [A-Z]", lines[0]), "more than one sentence"


def test_a_push_is_private_has_no_local_paths_and_changes_nothing_here(hub, push, folder, home):
    before = snapshot(folder)
    done = push(folder, "anna/wings-one")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["anna/wings-one"]
    assert repository.private and "anna/wings-one is private" in done.stdout
    assert set(files_of(hub, "anna/wings-one")) == GOES_UP
    assert snapshot(folder) == before
    content = b"".join(files_of(hub, "anna/wings-one").values())
    for word in (str(home), home.name, "a secret answer", str(folder.parent), "optimizer"):
        assert word.encode() not in content, word
    # Weights go through LFS and are the same to the bit; the rest is the same but for paths.
    assert set(repository.lfs.values()) == {(folder / "model.safetensors").read_bytes()}
    sent = files_of(hub, "anna/wings-one")
    config, own = (json.loads(text) for text in (sent["config.json"], before_text(folder)))
    assert "_name_or_path" not in config["text_config"]
    del own["text_config"]["_name_or_path"]
    assert config == own
    assert sent["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert json.loads(sent["result.json"])["skipped"] == 1
    recipe = sent["recipe.yaml"].decode()
    assert "path: questions.jsonl" in recipe and "path: text.jsonl" in recipe
    # Scalars keep their spelling.
    assert "projector: 1e-4" in recipe and "path: lab/pictures" in recipe


def before_text(folder):
    return (folder / "config.json").read_text()


def test_a_dry_run_lists_sizes_and_reasons_and_asks_nobody(hub, push, folder, tmp_path):
    done = push(folder, "anna/dry", "--dry-run", "--card", tmp_path / "card.md", token=None)
    assert done.returncode == 0, done.stderr
    assert not hub.repositories
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}
    size = (folder / "model.safetensors").stat().st_size
    assert re.search(rf"model\.safetensors +{size:,}", done.stdout)
    reasons = {
        "checkpoint-40": "training state", "optimizer.pt": "training state",
        "answers.jsonl": "answers", "notes.odt": "no known kind",
    }  # fmt: skip
    for name, why in reasons.items():
        assert re.search(rf"stays: {re.escape(name)} \(.*{why}", done.stdout), done.stdout
    assert f"{len(GOES_UP)} files" in done.stdout
    assert (tmp_path / "card.md").read_text().startswith("---\n")


def test_wrong_tokens_and_names_are_one_sentence_and_leave_nothing(hub, push, folder):
    refused(push(folder, "anna/x", token=None), 1, "No token", "hf auth login")
    refused(push(folder, "anna/x", token="hf_wrong"), 1, "does not accept HF_TOKEN")
    refused(push(folder, "ben/x"), 1, "may not write to ben/x", "'ben'")
    refused(push(folder, "no one/x"), 2, "'no one/x' is no name")
    refused(push(folder, "anna/x", HF_HUB_OFFLINE="1"), 1, "HF_HUB_OFFLINE")
    refused(push(folder, "anna/x", HF_ENDPOINT="http://127.0.0.1:9"), 1, "cannot be reached")
    hub.read_only = True
    refused(push(folder, "anna/x"), 1, "permission to write")
    assert not hub.repositories
    hub.read_only, hub.full = False, True
    refused(push(folder, "anna/x"), 1, "takes no content", "storage limit")
    assert not files_of(hub, "anna/x")


@pytest.mark.parametrize(("token", "words"), [(None, "No token"), ("hf_wrong", "does not accept")])
def test_python_gets_the_same_sentences(token, words, hub, home):
    code = (
        "from wings.errors import HubError\n"
        "from wings.sharing.repository import Repository\n"
        "try:\n    Repository('anna/x')\n"
        "except HubError as error:\n    print(error)\n"
    )
    done = run(["-c", code], hub.environment(home, token, HOME=str(home)))
    assert done.returncode == 0 and words in done.stdout, done.stderr


def test_a_repository_with_something_else_is_left_alone(hub, push, folder):
    hub.add("anna/llama", {"config.json": b'{"model_type": "llama"}'}, private=True)
    refused(push(folder, "anna/llama"), 2, "'llama' model")
    hub.add("anna/open", {"README.md": b"# Mine, by hand\n", "old.txt": b"old"})
    refused(push(folder, "anna/open"), 2, "is public", "--public")
    assert set(files_of(hub, "anna/open")) == {"README.md", "old.txt"}
    done = push(folder, "anna/open", "--public")
    assert done.returncode == 0, done.stderr
    files = files_of(hub, "anna/open")
    assert files["README.md"] == b"# Mine, by hand\n" and files["old.txt"] == b"old"
    assert "written by hand" in done.stdout
    assert push(folder, "anna/open", "--public", "--new-card").returncode == 0
    assert files_of(hub, "anna/open")["README.md"].startswith(b"---\n")


def test_a_public_repository_is_private_until_all_is_there(hub, push, folder):
    seen = []
    hub.before_commit = lambda: seen.append(hub.repositories["anna/open"].private)
    assert push(folder, "open", "--public", "--message", "First").returncode == 0
    repository = hub.repositories["anna/open"]
    assert seen == [True] and not repository.private
    assert repository.messages[repository.head()] == "First"


def shard(folder):
    """Splits the weights of a folder into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    index = {}
    for n, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{n + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def test_a_cut_and_killed_push_goes_on_where_it_was(hub, push, folder, home):
    shard(folder)
    shards = sorted(folder.glob("*.safetensors"))
    # The second shard is cut whenever the client tries it.
    hub.cut = 10**6
    hub.spared = {shards[0].stat().st_size}
    environment = hub.environment(home / ".cache", HOME=str(home))
    words = [sys.executable, "-m", "wings.cli", "push", folder, "anna/long"]
    running = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (hub.uploaded and hub.cut < 10**6) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert hub.uploaded == shards[0].stat().st_size and hub.cut < 10**6
    assert not files_of(hub, "anna/long")
    # One more cut is repeated by the client itself.
    hub.cut, hub.uploaded = 1, 0
    done = push(folder, "anna/long")
    assert done.returncode == 0, done.stderr
    assert hub.uploaded == shards[1].stat().st_size, "a shard was sent twice"
    repository = hub.repositories["anna/long"]
    assert len(repository.commits) == 2
    # Nothing changed: no commit, no upload.
    assert push(folder, "anna/long").returncode == 0
    assert len(repository.commits) == 2 and hub.uploaded == shards[1].stat().st_size


def test_a_new_model_replaces_the_shards_of_the_old_one(hub, push, folder):
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}",
           "config.json": b'{"model_type": "wings"}', "added_tokens.json": b"{}",
           "assets/a.png": b"a", "handler.py": b"pass"}  # fmt: skip
    hub.add("anna/again", old, private=True)
    assert push(folder, "anna/again", "--revision", "v2").returncode == 0
    assert set(files_of(hub, "anna/again", "v2")) == GOES_UP | {"assets/a.png", "handler.py"}
    assert files_of(hub, "anna/again")["config.json"] == old["config.json"]


@pytest.mark.parametrize("damage", ["empty", "missing", "shard", "pointer", "processor", "run"])
def test_a_folder_that_is_not_whole_is_refused_before_the_network(damage, hub, push, folder):
    words = {"empty": "config.json", "missing": "no folder", "shard": "00002", "pointer": "LFS",
             "processor": "processor_config.json", "run": "not finished"}  # fmt: skip
    if damage == "empty":
        folder = folder / "checkpoint-40"
    elif damage == "missing":
        folder = folder / "nothing"
    elif damage == "shard":
        shard(folder)
        (folder / "model-00002-of-00002.safetensors").unlink()
    elif damage == "pointer":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    elif damage == "processor":
        (folder / "processor_config.json").unlink()
    else:
        (folder / "config.json").unlink()
    refused(push(folder, "anna/x", token=None), 2, words[damage])
    assert not hub.requests


def test_a_folder_that_is_written_meanwhile_is_not_committed(hub, push, folder):
    with (folder / ".wings" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(push(folder, "anna/x"), 2, "is writing to")
    assert not hub.requests
    weights = folder / "model.safetensors"
    hub.before_upload = lambda: os.utime(weights)
    refused(push(folder, "anna/x"), 2, "changed while it was uploaded")
    assert not files_of(hub, "anna/x")


def test_a_change_on_the_hub_meanwhile_is_not_overwritten(hub, push, folder):
    hub.add("anna/x", {"config.json": b'{"model_type": "wings"}'}, private=True)

    def someone_else():
        hub.before_commit = lambda: None
        hub.repositories["anna/x"].commit({"theirs": (b"theirs", False)}, "theirs")

    hub.before_commit = someone_else
    refused(push(folder, "anna/x"), 1, "changed on the Hub", "run the same command again")
    assert set(files_of(hub, "anna/x")) == {"theirs"}


def test_odd_names_links_and_hidden_files(hub, push, folder, home, tmp_path):
    odd = tmp_path / "[red] wings, ü & 'x'"
    folder.rename(odd)
    # A snapshot of the Hub's cache has links to files elsewhere.
    weights = odd / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    (odd / "loop").symlink_to(odd)
    (odd / ".netrc").write_text("password")
    (odd / "assets").mkdir()
    (odd / "assets" / "a b.png").write_bytes(b"png")
    done = push(odd, "anna/odd", "--include", "assets/*.png")
    assert done.returncode == 0, done.stderr
    assert set(files_of(hub, "anna/odd")) == GOES_UP | {"assets/a b.png"}
    assert "stays: loop" in done.stdout and "stays: .netrc" in done.stdout
    for pattern in ("nothing*", "../*", "/etc/*", ""):
        refused(push(odd, "anna/odd", "--include", pattern), 2, f"--include {pattern}")
    again = push(odd, "anna/odd", "--include", "*.json", "*.odt", "--dry-run")
    assert "notes.odt" in again.stdout and str(home) not in again.stdout
    (odd / "README.md").write_text(f"# By hand\n\nTrained in {home}/runs.\n")
    refused(push(odd, "anna/odd"), 2, "README.md", "home folder", "line 3")


def test_damaged_records_of_a_run_and_bad_metadata_are_one_sentence(hub, push, folder, tmp_path):
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text("stage: [align\n")
    refused(push(folder, "anna/x"), 2, "recipe.yaml", "YAML")
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "result.json").write_text('{"steps": ')
    refused(push(folder, "anna/x"), 2, "result.json", "JSON")
    (folder / "result.json").unlink()
    (tmp_path / "report").mkdir()
    report = tmp_path / "report" / "report.json"
    for content in ("[]", "{}", '{"measurements": {"text": {"kinds": {"a": 1}}}, "inputs": {}}'):
        report.write_text(content)
        refused(push(folder, "anna/x", "--report", report.parent), 2, "--report", "report.json")
    assert not hub.repositories
    (folder / "README.md").write_text("---\nlicense: other\n---\n# Mine\n")
    refused(push(folder, "anna/x"), 1, "license: other needs a license_name")
    assert not files_of(hub, "anna/x")


LOAD = """
import json, sys, torch
from wings import WingsForCausalLM, WingsProcessor
from wings.cli.chat import load
model = WingsForCausalLM.from_pretrained("anna/named", revision=sys.argv[1])
processor = WingsProcessor.from_pretrained("anna/named", revision=sys.argv[1])
torch.save({k: v for k, v in model.state_dict().items()}, sys.argv[2])
session = load("anna/named")
print(session.say("What is this?", 4))
model.push_to_hub("anna/second", private=True, max_shard_size="2MB", tags=["mine"])
processor.push_to_hub("anna/second")
print(model.push_to_hub("anna/second", create_pr=True, max_shard_size="1MB"))
processor.save_pretrained("x", push_to_hub=True, repo_id="anna/third", commit_message="Third")
WingsForCausalLM.from_pretrained("anna/second")
try:
    WingsForCausalLM.from_pretrained("anna/named", revision="nope")
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


def test_a_pushed_model_loads_by_name_and_revision(hub, push, folder, home, tmp_path):
    shard(folder)
    assert push(folder, "anna/named").returncode == 0
    repository = hub.repositories["anna/named"]
    first = repository.head()
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    # Another model on the main branch; the first stays under its commit.
    for path in folder.glob("*.safetensors"):
        other = {name: tensor + 1 for name, tensor in load_file(path).items()}
        save_file(other, path, {"format": "pt"})
    assert push(folder, "anna/named").returncode == 0
    environment = hub.environment(home / ".cache", HOME=str(home))
    done = run(["-c", LOAD, first, tmp_path / "state.pt"], environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "state.pt")
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor), name
    assert "WingsError" in done.stderr and "nope" in done.stderr
    # `push_to_hub` writes the same kind of card, and no local paths either.
    second = files_of(hub, "anna/second")
    assert sum(name.endswith(".safetensors") for name in second) > 1
    assert {"README.md", "tokenizer.json", "processor_config.json"} <= set(second)
    assert b"pipeline_tag: image-text-to-text" in second["README.md"]
    assert b"- mine" in second["README.md"]
    assert str(tmp_path).encode() not in b"".join(second.values())
    offered = hub.repositories["anna/second"]
    assert "/discussions/1" in done.stdout and len(offered.branches) == 2
    assert len(offered.files("refs/pr/1")) > len(second)
    third = hub.repositories["anna/third"]
    assert third.messages[third.head()] == "Third" and "README.md" not in third.files()
