"""`wings plan`: what it prints, and what it says when it cannot."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from tiny import records, tiny_model
from transformers import AutoConfig

from wings.cli import main
from wings.cli.plan import Card, duration, milliseconds, shares
from wings.train.distributed import blocks_of
from wings.train.estimate.budget import Budget, EpochEstimate
from wings.train.estimate.fake_step import FakeStepRunner
from wings.train.estimate.meta_model import ModelSpec
from wings.train.recipe import Recipe

VISION = {
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function of changes: writes `r.yaml` for a small decoder that is only a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    text = AutoConfig.for_model(
        "llama",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        dtype="bfloat16",
    )
    text.save_pretrained(tmp_path / "llm")

    def file(**changes):
        values = {
            "stage": "instruct",
            "output": "out",
            "model": {"vision": VISION, "text": str(tmp_path / "llm")},
            "wings": {"rank": 4, "router_positions": 128},
            "data": [{"path": "data.json"}],
            "max_length": 64,
            "bf16": True,
            **changes,
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
        return "r.yaml"

    return file


@pytest.fixture
def same_model(monkeypatch):
    """For several plans of one model: a step that was run for one plan is taken for the others."""
    for name in ("step", "flops"):
        done, run = {}, getattr(FakeStepRunner, name)

        def once(self, batch, checkpointing, done=done, run=run):
            key = len(blocks_of(self.model)), batch, checkpointing
            if key not in done:
                done[key] = run(self, batch, checkpointing)
            return done[key]

        monkeypatch.setattr(FakeStepRunner, name, once)


def test_a_plan_says_what_fits_and_what_it_costs(write, capsys):
    assert main(["plan", write(), "--gpus", "2", "--memory", "1", "--mfu", "0.5"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    embeddings, block = 512 * 64, 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    llm = 2 * embeddings + 2 * block + 64
    assert lines["language_model"][1:4] == [f"{llm:,}", "2.0e-06", "float32"]
    assert lines["vision_tower"][2:4] == ["frozen", "bfloat16"]
    assert "fsdp" in out and "ddp (the recipe's)" in out
    assert "the recipe fits" in out and "MFU of 50% of 989 TFLOP/s" in out
    assert "hours per million tokens" in out and "data.json: no such data file" in out
    assert "of the FLOPs of a sample of 64 tokens with one item: the encoder of image " in out
    assert "AdamW takes " in out and "at 3.35 TB/s of memory" in out
    assert "`workers`" not in out, "the data was not read"
    assert "Not counted: the CUDA context" in " ".join(out.split())


def test_shares_of_a_step(write, same_model):
    """Against a count by hand of the tower's products, and the bytes of AdamW."""
    read = Recipe.from_yaml(write(batch_size=4, feature_cache="features", learning_rates={}))
    budget = Budget(read, ModelSpec.of(read), 1, 80.0)
    tokens, width = 2 * 2 + 1, 32
    patches = 2 * 4 * (3 * 14 * 14) * width
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    assert budget.encoder_flops() == {"image": patches + block}
    assert budget.item_bytes() == {"image": 4 * 4 * width}
    trained = sum(g.count for g in budget.groups if g.rate is not None)
    assert budget.optimiser_traffic() == 28 * trained
    # A byte takes a microsecond.
    card, encoder = Card(80.0, 100.0, 0.5, 1e-6), patches + block
    epoch = EpochEstimate(10, 12, 32.0, 10, 1.0, seconds=0.25)
    share, adam, data = shares(budget, card, epoch)
    whole = budget.flops_per_token(False) * 64
    expected = encoder / (encoder + (whole - encoder) / 2)
    assert f"32 tokens with one item: the encoder of image {expected:.1%}; feature_cache" in share
    assert f"{16 * width / 2**20:,.2f} MiB in float32 for an image" in share
    samples = 50e12 / budget.flops_per_token(False) / 32
    step = milliseconds(4 / samples)
    taken = milliseconds(28 * trained / 1e6)
    assert adam.startswith(f"AdamW takes {taken} a step and the rest of it {step}, at")
    assert f"busy by {math.ceil(0.25 * samples):,} `workers`; the recipe has 0" in data
    short = Budget(replace(read, max_length=5), ModelSpec.of(read), 1, 80.0)
    assert short.encoder_shares(5) == {}
    assert "with one item: image does not fit into max_length" in shares(short, card, epoch)[0]


def test_what_does_not_fit_is_said(write, same_model, capsys):
    assert main(["plan", write(batch_size=32), "--memory", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "THE RECIPE DOES NOT FIT" in out
    # The number that is named fits, and one more does not.
    (line,) = [line for line in out.splitlines() if "largest device_batch_size" in line]
    most = int(line.split(" with gradient")[0].split()[-1])
    assert 1 <= most < 32
    for rows, sentence in ((most, "the recipe fits"), (most + 1, "DOES NOT FIT")):
        more = [f"device_batch_size={rows}", f"batch_size={rows}", "gradient_checkpointing=true"]
        assert main(["plan", "r.yaml", *more, "--memory", "0.01"]) == 0
        assert sentence in capsys.readouterr().out


def test_adapters_are_a_group_of_the_plan(write, capsys):
    pytest.importorskip("peft")
    assert main(["plan", write(lora={"rank": 2})]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    ends = 4 * (64 + 64) + 3 * (64 + 128)
    assert lines["lora"][1:4] == [f"{2 * 2 * ends:,}", "1.0e-04", "float32"]
    assert lines["language_model"][2:4] == ["frozen", "bfloat16"]


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"model": {"vision": VISION, "text": "./gone"}}, [], "model.text: the configuration of"),
        ({"model": {"vision": "ViT-B-99", "text": "llm"}}, [], "has no model 'ViT-B-99'"),
        ({"model": None, "start": "runs/gone/x"}, [], "start: there is no folder runs/gone/x"),
        ({}, ["--gpus", "5"], "batch_size: 32 cannot be split over 5 GPUs"),
        ({}, ["max_lenght=3"], "max_lenght: no such key (did you mean"),
        (
            {"learning_rates": {"router": 1e-3}, "wings": {"router": None}},
            [],
            "learning_rates.router: this model",
        ),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(write, capsys, changes, options, sentence):
    assert main(["plan", write(**changes), *options]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_data_that_is_there_is_counted(tmp_path, same_model, monkeypatch, capsys):
    """A start that is a whole checkpoint, with a tokeniser: tokens of an epoch, and its time."""
    monkeypatch.setenv("COLUMNS", "120")
    model, processor = tiny_model(learners=("image",), router=None)
    model.save_pretrained(tmp_path / "one")
    processor.save_pretrained(tmp_path / "one")
    lines = [json.dumps(record) for record in records(tmp_path, 8, pictures=False)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    values = {
        "stage": "instruct",
        "output": str(tmp_path / "two"),
        "start": str(tmp_path / "one"),
        "data": [{"path": str(tmp_path / "d.jsonl")}],
        "max_length": 64,
        "batch_size": 4,
        "epochs": 2,
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert main(["plan", str(tmp_path / "r.yaml")]) == 0
    out = capsys.readouterr().out
    tokens = [len(processor.encode(talk(line))["input_ids"]) for line in lines]
    assert f"8 samples of {sum(tokens) / 8:,.0f} tokens on average" in out
    assert " `workers`; the recipe has 0" in " ".join(out.split())
    assert f"{sum(tokens):,} tokens an epoch" in out and "text_learners" in out
    assert "2 epochs: less than 0.01 s on 1 GPU" in out
    # A fifth of an epoch more: 8 / (1 - 0.2) = 10 samples, in three batches of 4.
    values["data"].append({"path": str(tmp_path / "d.jsonl"), "share": 0.2})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert main(["plan", str(tmp_path / "r.yaml")]) == 0
    assert "10 samples (12 with 2 again to fill the last batch) of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "less than 0.01 s"), (0.0123, "0.012 s"), (3.14, "3.1 s"), (99.6, "100 s"),
     (3600, "1.0 hours")],
)  # fmt: skip
def test_a_short_time_is_not_zero(seconds, text):
    assert duration(seconds) == text


def test_milliseconds_have_three_digits():
    found = [milliseconds(seconds) for seconds in (1.23456e-6, 0.0123456, 1.23456, 1234.56)]
    assert found == ["0.00123 ms", "12.3 ms", "1,230 ms", "1.23e+06 ms"]


def talk(line):
    turns = json.loads(line)["conversations"]
    names = {"human": "user", "gpt": "assistant"}
    return [{"role": names[turn["from"]], "content": turn["value"]} for turn in turns]
