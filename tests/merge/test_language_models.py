"""Merges of plain language models: tied and untied heads, shards, vocabularies, filters."""

import json

import pytest
import torch
from merged import TOKENS, language_model, moved, save, weights
from tiny import tiny_tokenizer
from transformers import AutoTokenizer

from wings.merge import chunks
from wings.model.fingerprint import fingerprint
from wings.model.learners_only import tensors_of_llm
from wings.model.load_causal_lm import load_causal_lm


def average(one, two, share):
    return {name: (1 - share) * one[name] + share * two[name] for name in one}


def assert_close(found, expected, atol=1e-6):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=atol), name


def test_a_quarter_of_the_language_model(llm, child, merge, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 100)
    folder, printed = merge(llm, child, "--weight", 0.75)
    assert_close(weights(folder), average(weights(llm), weights(child), 0.75))
    assert "merged by linear" in printed
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("weight", [0, 1])
def test_the_ends_are_the_sources_to_the_bit(weight, llm, child, merge):
    folder, _ = merge(llm, child, "--weight", weight)
    found, expected = weights(folder), weights(child if weight else llm)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("is_tied", [(True, False), (False, True), (True, True)], ids=str)
def test_tied_and_untied_heads(is_tied, merge, tmp_path):
    """The result has a head of its own where one of the models has."""
    folders = [
        save(tmp_path / name, moved(language_model(tie_word_embeddings=tied), seed))
        for seed, (name, tied) in enumerate(zip(("llm", "child"), is_tied, strict=True))
    ]
    folder, _ = merge(*folders, "--weight", 0.25)
    one, two = map(weights, folders)
    assert_close(weights(folder), average(one, two, 0.25))
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is all(is_tied)


@pytest.mark.parametrize("sharded", ["llm", "child", "both"])
def test_shards(sharded, llm, child, merge, tmp_path):
    folders = [llm, child]
    for n, name in enumerate(("llm", "child")):
        if sharded in (name, "both"):
            model = language_model() if n == 0 else moved(language_model(), 1)
            folders[n] = save(tmp_path / name, model, max_shard_size="30KB")
            assert len(list(folders[n].glob("*.safetensors"))) > 2
    folder, _ = merge(*folders, "--weight", 0.5)
    assert_close(weights(folder), average(weights(llm), weights(child), 0.5))
    shards = [sorted(p.name for p in f.glob("model*")) for f in (folder, folders[1])]
    assert shards[0] == shards[1]


def test_added_words_are_the_childs_own(llm, merge, tmp_path):
    """One in the place of an unused row, one past the table; more words than the table has rows."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{n}>" for n in range(30)])
    model = moved(language_model(), 1)
    model.resize_token_embeddings(140)
    grown = save(tmp_path / "grown", model, tokenizer)
    folder, printed = merge(llm, grown, "--weight", 0.5, "--set", "normalize=true")
    assert "35 vocabulary rows that the LLM lacks are the kept child's." in printed
    found, own, base = weights(folder), weights(grown), weights(llm)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        expected = 0.5 * own[name][:128] + 0.5 * base[name]
        assert torch.allclose(found[name][:TOKENS], expected[:TOKENS], atol=1e-6)
        assert torch.equal(found[name][TOKENS:], own[name][TOKENS:])


def test_a_child_with_fewer_unused_rows(llm, merge, tmp_path):
    model = moved(language_model(), 1)
    model.resize_token_embeddings(110)
    folder, _ = merge(llm, save(tmp_path / "small", model), "--weight", 0.5)
    name = "model.embed_tokens.weight"
    expected = 0.5 * (model.state_dict()[name] + weights(llm)[name][:110])
    assert torch.allclose(weights(folder)[name], expected, atol=1e-6)


def recipe(path, llm, *children, method="linear", **fields):
    """A configuration; children are (folder, parameters)."""
    models = [{"model": str(child), "parameters": values} for child, values in children]
    content = {"base_model": str(llm), "merge_method": method, "models": models, **fields}
    # JSON is YAML too.
    path.write_text(json.dumps(content))
    return path


def test_filters_choose_by_name_and_by_block(llm, child, merge, tmp_path):
    weight = [
        {"filter": "embed_tokens", "value": 0.0},
        {"filter": "blocks 1-", "value": 0.25},
        {"filter": "mlp", "value": 0.5},
        {"value": 1.0},
    ]
    file = recipe(tmp_path / "merge.yaml", llm, (child, {"weight": weight}))
    folder, _ = merge("--config", file)
    found, base, own = weights(folder), weights(llm), weights(child)
    for name in base:
        share = 0.0 if "embed_tokens" in name else 1.0
        if "mlp" in name:
            share = 0.5
        if ".1." in name:
            share = 0.25
        assert torch.allclose(found[name], base[name].lerp(own[name], share), atol=1e-6), name
    saved = json.loads((folder / "merged.json").read_text())
    assert saved["children"][0]["parameters"]["weight"] == weight
    assert str(tmp_path) not in (folder / "merged.json").read_text()
    expected = [fingerprint(tensors_of_llm(load_causal_lm(folder))) for folder in (llm, child)]
    assert [one["llm_fingerprint"] for one in (saved["base"], *saved["children"])] == expected


@pytest.mark.parametrize(
    ("method", "values", "shared"),
    [
        ("ties", {"weight": 0.7, "density": [{"filter": "mlp", "value": 0.3}, {"value": 0.8}]}, {}),
        ("task_arithmetic", {"weight": -0.4}, {"lambda": 0.9}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_model_agrees_with_mergekit(method, values, shared, llm, child, merge, tmp_path):
    for name in ("mergekit", "immutables"):
        pytest.importorskip(name, reason="mergekit is not installed with its requirements")
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    other = save(tmp_path / "other", moved(language_model(), 5))
    children = [(child, values), (other, {"weight": 0.2})]
    fields = {"parameters": shared, "dtype": "float32"}
    file = recipe(tmp_path / "merge.yaml", llm, *children, method=method, **fields)
    folder, _ = merge("--config", file)
    config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    run_merge(config, str(tmp_path / "theirs"), MergeOptions(quiet=True))
    assert_close(weights(folder), weights(tmp_path / "theirs"), atol=1e-5)


def test_a_mix_of_dtypes_is_said_and_written_as_the_language_model(llm, merge, tmp_path):
    low = language_model(dtype=torch.bfloat16)
    high = moved(language_model(), 1)
    base, own = save(tmp_path / "low", low), save(tmp_path / "high", high)
    folder, printed = merge(base, own, "--weight", 0.5)
    assert "several dtypes (bfloat16 in low; float32 in high)" in printed
    found = weights(folder)["model.norm.weight"]
    expected = 0.5 * (low.state_dict()["model.norm.weight"].float() + high.model.norm.weight)
    assert torch.equal(found, expected.bfloat16().to(found.dtype))
    folder, _ = merge(base, own, "--weight", 0.5, "--dtype", "float16", output="half")
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float16}
