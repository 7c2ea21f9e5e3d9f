"""The recipes of the experiment: what every method shares, and what one adds."""

from pathlib import Path
from typing import Any

from wings.train.recipe import Recipe

from .methods import ALIGNS, Method
from .sizes import Size

ALIGN_RATE = 5e-4
PROJECTOR_RATE = 5e-4
LEARNER_RATE = 5e-4  # of learners and routers beside an LLM that is trained
TOWER = {"pool": 2, "image_size": 112}  # 8 x 8 patches become 16 image tokens


def align_recipe(key: str, folder: Path, size: Size) -> Recipe:
    """Stage 1: captions, for every method that goes on from it."""
    wings = {"learners": ["image"], **ALIGNS[key]}
    learners = {"image_learners": ALIGN_RATE} if wings["learners"] else {}
    tower = f"local-dir:{folder / 'weights' / 'tower'}"
    return Recipe.from_dict(
        {
            "stage": "align",
            "output": str(folder / f"align-{key}"),
            "data": [_source(folder, "align")],
            "model": {
                "vision": {"model_name": tower, **TOWER},
                "text": str(folder / "weights" / "llm"),
            },
            "wings": wings,
            "learning_rates": {"projector": ALIGN_RATE, **learners},
            "steps": size.align_steps,
            **_common(size, 0),
        }
    )


def instruct_recipe(
    method: Method, rate: float, seed: int, steps: int, folder: Path, output: Path, size: Size
) -> Recipe:
    """Stage 2 of one method at one rate of its sweep."""
    keys = dict(method.keys)
    data = [_source(folder, "instruct")]
    share = keys.pop("replay", None)
    if share is not None:
        data.append({**_source(folder, "text"), "share": share})
    if "text_turns" in keys:
        keys["text_turns"] = {"path": str(folder / "data" / "text.jsonl"), **keys["text_turns"]}
    return Recipe.from_dict(
        {
            "stage": "instruct",
            "output": str(output),
            "data": data,
            "start": str(folder / f"align-{method.align}"),
            "wings": {"router": None, **method.wings},
            "learning_rates": rates_of(method, rate),
            "steps": steps,
            **({} if "lora" in keys else {"freeze_llm": not method.trains_llm}),
            **_common(size, seed),
            **keys,
        }
    )


def rates_of(method: Method, rate: float) -> dict[str, float]:
    """The rate of every group that the method trains."""
    rates = {"projector": PROJECTOR_RATE}
    rates |= {f"{learner}_learners": LEARNER_RATE for learner in method.learners}
    if len(method.learners) > 1 and method.wings.get("router"):
        rates["router"] = LEARNER_RATE
    return rates | dict.fromkeys(method.swept, rate)


def _source(folder: Path, name: str) -> dict[str, Any]:
    return {"path": str(folder / "data" / f"{name}.jsonl"), "images": str(folder / "data")}


def _common(size: Size, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "batch_size": size.batch_size,
        "max_length": 320,
        "warmup_ratio": 0.05,
        "bf16": True,
        "log_every": 5,
        # What comes out of it is a page.
        "trackers": [],
    }
