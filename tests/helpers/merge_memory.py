"""Measures the memory of `wings merge` on models made of zeros, which take no disk.

`python tests/helpers/merge_memory.py` merges two models of 1.2 billion parameters and prints one
line of JSON for each method.
"""

import argparse
import json
import struct
import tempfile
from pathlib import Path

import torch
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from wings.merge.merged_model import write_merged_model
from wings.merge.plan import MergePlan
from wings.merge.recipe_of_command import recipe_of_command

# The sizes of a common model of about a billion parameters.
LARGE = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
METHODS = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": -1.0, "density": 0.2, "start": "child"},
    "ties": {"weight": 1.0, "density": 0.2},
    "weighted": {},
}
ITEM = 2  # bytes of a bfloat16


def write_zeros(folder, sizes, last):
    """Saves a model in bfloat16 of zeros, but for the last element, as a sparse file."""
    config = LlamaConfig(**sizes, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    header, start = {}, 0
    for name, tensor in state.items():
        end = start + tensor.numel() * ITEM
        offsets = [start, end]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        start = end
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + start)
        file.seek(-ITEM, 2)
        file.write(struct.pack("<H", last))
    largest = max(tensor.numel() for tensor in state.values())
    return {"parameters": start // ITEM, "largest_tensor_bytes": largest * ITEM}


def reset_peak():
    """Lets the kernel forget the largest memory so far; raises an OSError where it may not."""
    Path("/proc/self/clear_refs").write_text("5")


def peak():
    """The largest memory of the process since then, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(sizes, method, children):
    """Merges zeros; returns the growth of the process's largest memory, in bytes."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(n) for n in range(children + 1)]
        for n, folder in enumerate(folders):
            folder.mkdir()
            facts = write_zeros(folder, sizes, n)
        recipe = recipe_of_command(
            [str(f) for f in folders], method, [], METHODS[method], None, None
        )
        plan = MergePlan.of(recipe)
        output = Path(place) / "merged"
        output.mkdir()
        reset_peak()
        before = peak()
        write_merged_model(plan, output, lambda done, total: None)
        used = peak() - before
    tensors = used / facts["largest_tensor_bytes"] / (children + 1)
    return {
        "method": method, "models": children + 1, **facts, "peak_bytes": used,
        "largest_tensors_per_model": round(tensors, 2),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=json.loads, default=LARGE, help="fields of a LlamaConfig")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--children", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps(measure(given.sizes, given.method, given.children)))
