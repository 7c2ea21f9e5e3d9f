"""Results of the pass before it was redesigned, bit by bit on the machine that recorded them.

`PYTHONPATH=.:tests/helpers python tests/wings/test_recorded.py` records anew. Elsewhere rounding
differs: results are compared to a tolerance, and generated tokens exactly.
"""

import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch
import transformers
from families import VISION, batch_of, text_config

from wings import WingsConfig, WingsForCausalLM

RECORDED = Path(__file__).with_name("recorded.json")
ROWS = [["text", "text", "image", "text", "image", "text", "text"], ["text"] * 5, ["image", "text"]]
# Past 256 tokens a row is cut into segments, and no mask is made.
LONG = [["text"] * 140 + ["image"] + ["text"] * 140 + ["image"] + ["text"] * 9, ["text"] * 20]
# Heads that are wide enough for the kernels.
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
STEPS = 30
PLAIN = [
    ("llama", {"router": "position"}),
    ("llama", {"router": "modality", "text_guard": True}),
    ("llama", {"router": "attended", "learners": ("image",), "learner_layers": (1,)}),
    ("llama", {"router": None, "normalize_sources": True}),
    ("gemma2", {"router": "position"}),
    ("mistral", {"router": "modality"}),
    ("llama", {"router": "attended", "text_guard": True, "prefix_length": 3}),
]
FUSED = [
    ("llama", {"router": "position"}),
    ("mistral", {"router": "modality", "text_guard": True}),
    ("llama", {"router": None, "learners": ("image",)}),
]
CASES = {
    f"{impl}-{family}-" + "-".join(f"{k}={v}" for k, v in options.items()): (impl, family, options)
    for impl, cases in (("torch", PLAIN), ("triton", FUSED))
    for family, options in cases
}


def machine():
    """Where results are the same to the last bit."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [n for n in cpu.read_text().splitlines() if n.startswith("model name")]
        if (cpu.exists())
        else [platform.processor()]
    )
    versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    return ", ".join([names[0].partition(":")[2].strip() or names[0], *versions])


def build(impl, family, options):
    torch.manual_seed(0)
    wide = WIDE if impl == "triton" else {}
    config = WingsConfig(
        text_config=text_config(family, **wide), vision_config=VISION, rank=4,
        router_positions=512, **options,
    )  # fmt: skip
    model = WingsForCausalLM(config)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.3)
    model.impl = impl
    return model


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def results(impl, family, options):
    """Logits, generated tokens and losses of a model under training."""
    model = build(impl, family, options).eval()
    left, _ = batch_of(model, ROWS, side="left")
    right, _ = batch_of(model, ROWS, seed=1, side="right")
    found = {}
    # Interpreted kernels take seconds a pass: they run each kind of work once.
    is_slow = impl == "triton"
    with torch.no_grad():
        for name, batch in (("left", left),) if is_slow else (("left", left), ("right", right)):
            for cached in (False,) if is_slow else (False, True):
                logits = model(**batch, use_cache=cached).logits[batch["attention_mask"].bool()]
                found[f"logits {name} {cached}"] = digest(logits)
                found[f"some logits {name} {cached}"] = logits[::3, 7].tolist()
    if not is_slow:
        batch, _ = batch_of(model, LONG, seed=2, side="left")
        logits = model(**batch).logits
        found["long logits"] = digest(logits[batch["attention_mask"].bool()])
        logits.logsumexp(-1).sum().backward()
        slopes = [p.grad.flatten() for n, p in model.named_parameters() if ".wings." in n]
        found["long gradients"] = digest(torch.cat(slopes))
        model.zero_grad()
    count = 2 if is_slow else 8
    ways = dict(do_sample=False, max_new_tokens=count, pad_token_id=0, eos_token_id=None)
    kinds = {"greedy": {}}
    if not is_slow:
        kinds |= {"beams": {"num_beams": 2}, "static": {"cache_implementation": "static"}}
    for name, more in kinds.items():
        found[f"tokens {name}"] = model.generate(**left, **ways, **more)[:, -count:].tolist()
    steps = 2 if is_slow else STEPS
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    model.train()
    losses = []
    for step in range(steps):
        batch, _ = batch_of(model, ROWS if impl == "torch" else ROWS[:2], seed=step % 2)
        hidden = (batch["input_ids"] == model.config.image_token_id) | (
            batch["attention_mask"] == 0
        )
        loss = model(**batch, labels=batch["input_ids"].masked_fill(hidden, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return found | {"losses": losses}


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_before_the_redesign(case):
    recorded = json.loads(RECORDED.read_text())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected, found = recorded["cases"][case], results(*CASES[case])
    torch.set_num_threads(threads)
    if recorded["machine"] == machine():
        assert found == expected
        return
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("tokens"):
            assert found[name] == value, name
        elif name.startswith("some") or name == "losses":
            torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3, msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    done = {case: results(*of) for case, of in CASES.items()}
    lines = [f"{json.dumps(case)}: {json.dumps(of)}" for case, of in done.items()]
    text = f'{{"machine": {json.dumps(machine())},\n"cases": {{\n' + ",\n".join(lines) + "\n}}\n"
    RECORDED.write_text(text)
