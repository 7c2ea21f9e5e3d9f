"""Sources that are names on the Hub."""

import json

import torch
from hub import Hub
from interpreter import run
from merged import weights


def test_names_on_the_hub_are_downloaded_and_recorded(llm, child, tmp_path):
    with Hub() as hub:
        for name, folder in (("org/llm", llm), ("org/child", child)):
            hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})
        command = ["-m", "wings.cli", "merge", "org/llm", "org/child", "--weight", "0.25"]
        output = tmp_path / "merged"
        done = run([*command, "--output", output], hub.environment(tmp_path / "hf"))
        assert done.returncode == 0, done.stderr
    found, base, own = weights(output), weights(llm), weights(child)
    for name in base:
        assert torch.allclose(found[name], base[name].lerp(own[name], 0.25), atol=1e-6), name
    record = json.loads((output / "merged.json").read_text())
    assert record["base"]["name"] == "org/llm" and record["children"][0]["name"] == "org/child"
