"""The methods of the experiment and their recipes: ways to teach one LLM to see.

All start from the same LLM and tower, and get the same pictures, conversations, steps and order. A
method is the keys that it adds to one common recipe.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wings.examples.training import group_rates, make_recipe
from wings.train.recipe import Recipe

from .dataset import ExperimentSize

# A third of SmolLM2's thirty blocks has learners, so that two cores can train them.
LEARNER_LAYERS = list(range(0, 30, 3))
TUNED = {"normalize_sources": True, "init_std": "scaled"}
# Options of stage 1. Methods with the same options share the checkpoint.
ALIGNS: dict[str, dict[str, Any]] = {
    "projector": {"learners": []},
    "wings": {"learner_layers": LEARNER_LAYERS},
    "normalized": {"learner_layers": LEARNER_LAYERS, "normalize_sources": True},
    "tuned": {"learner_layers": LEARNER_LAYERS, **TUNED},
}
ALIGN_RATE = 5e-4
PROJECTOR_RATE = 5e-4
LEARNER_RATE = 5e-4  # of learners and routers beside an LLM that is trained
TOWER = {"pool": 2, "image_size": 112}  # 8 x 8 patches become 16 image tokens
LLM_RATES = (2e-5, 1e-4, 5e-4)
LEARNER_RATES = (2e-4, 5e-4, 2e-3)
LORA_RATES = (1e-4, 5e-4, 2e-3)
PLAIN: dict[str, Any] = {"learners": []}
BOTH: dict[str, Any] = {"learners": ["image", "text"]}
FROZEN: dict[str, Any] = {**BOTH, "router": None, "text_guard": True}
TEXT_TURNS = {"text_turns": {"share": 0.25}}
LORA: dict[str, Any] = {"lora": {"rank": 16, "alpha": 32.0}}


@dataclass(frozen=True)
class SweptMethod:
    """One way to teach the LLM to see, run at several learning rates.

    Attributes:
        key: name in files.
        name: name in the table.
        align: the stage 1 of `ALIGNS` that it starts from.
        wings: options of the model in stage 2.
        swept: the parameter groups that take the rate of the sweep.
        rates: of the sweep, rising.
        keys: further keys of the recipe.
        trains_llm: whether the LLM's own weights are trained.
    """

    key: str
    name: str
    align: str
    wings: dict[str, Any]
    swept: tuple[str, ...]
    rates: tuple[float, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    trains_llm: bool = False

    @property
    def learners(self) -> list[str]:
        """The learners of stage 2."""
        return self.wings["learners"]


def trained(key: str, name: str, align: str, wings: dict[str, Any], **keys: Any) -> SweptMethod:
    """A method that trains the LLM at the rate of the sweep."""
    llm = ("language_model",)
    return SweptMethod(key, name, align, wings, llm, LLM_RATES, keys, trains_llm=True)


def frozen(key: str, name: str, wings: dict[str, Any], **keys: Any) -> SweptMethod:
    """Wings with a frozen LLM; learners and router take the rate of the sweep."""
    groups = tuple(f"{name}_learners" for name in wings["learners"])
    if wings["router"] is not None:
        groups += ("router",)
    return SweptMethod(key, name, "tuned", wings, groups, LEARNER_RATES, keys)


METHODS = (
    frozen("wings-frozen", "Wings, LLM frozen, text guard", FROZEN),
    trained("full", "full fine-tune", "projector", PLAIN),
    frozen("wings-text-turns", "Wings frozen, text turns", FROZEN, **TEXT_TURNS),
    frozen(
        "wings-retention", "Wings frozen, text turns, retention", FROZEN,
        kl_to_base={"weight": 1.0}, **TEXT_TURNS,
    ),
    SweptMethod("projector", "projector only", "projector", PLAIN, ("projector",), LEARNER_RATES),
    trained("full-text-turns", "full fine-tune, text turns", "projector", PLAIN, **TEXT_TURNS),
    SweptMethod("lora", "LoRA", "projector", PLAIN, ("lora",), LORA_RATES, LORA),
    trained("full-replay", "full fine-tune, 10% text replayed", "projector", PLAIN, replay=0.1),
    trained("wings", "Wings as published", "wings", {**BOTH, "router": "position"}),
    SweptMethod(
        "wings-fresh", "Wings frozen, learners new in stage 2", "projector",
        {**FROZEN, "learner_layers": LEARNER_LAYERS, **TUNED},
        ("image_learners", "text_learners"), LEARNER_RATES,
    ),
    frozen(
        "wings-attended", "Wings frozen, attended router", {**FROZEN, "router": "attended"},
    ),
    SweptMethod(
        "prefix", "prefix", "projector", {**PLAIN, "prefix": 16}, ("prefix",), (1e-3, 5e-3, 2e-2)
    ),
    trained("wings-modality", "Wings, modality router", "wings", {**BOTH, "router": "modality"}),
    trained("wings-no-router", "Wings, no router", "wings", {**BOTH, "router": None}),
    trained("wings-visual", "Wings, visual learner only", "wings", {"learners": ["image"]}),
    trained("wings-textual", "Wings, textual learner only", "projector", {
        "learners": ["text"], "learner_layers": LEARNER_LAYERS,
    }),
    trained(
        "wings-normalized", "Wings, normalised sources", "normalized",
        {**BOTH, "router": "position"},
    ),
    frozen(
        "wings-attended-text-turns", "Wings frozen, attended router, text turns",
        {**FROZEN, "router": "attended"}, **TEXT_TURNS,
    ),
    SweptMethod(
        "projector-text-turns", "projector only, text turns", "projector", PLAIN,
        ("projector",), LEARNER_RATES, TEXT_TURNS,
    ),
    SweptMethod(
        "lora-text-turns", "LoRA, text turns", "projector", PLAIN,
        ("lora",), LORA_RATES, {**LORA, **TEXT_TURNS},
    ),
)  # fmt: skip
BY_KEY = {method.key: method for method in METHODS}


def align_recipe(key: str, folder: Path, size: ExperimentSize) -> Recipe:
    """Stage 1, captions, for every method that starts from it."""
    wings = {"learners": ["image"], **ALIGNS[key]}
    tower = f"local-dir:{folder / 'weights' / 'tower'}"
    llm = str(folder / "weights" / "llm")
    return make_recipe(
        "align", folder / "data", {"align": None}, folder / f"align-{key}", wings,
        group_rates(wings, ALIGN_RATE, ALIGN_RATE), steps=size.align_steps,
        model={"vision": {"model_name": tower, **TOWER}, "text": llm}, **_common(size, 0),
    )  # fmt: skip


def instruct_recipe(
    method: SweptMethod, rate: float, seed: int, steps: int, folder: Path, output: Path,
    size: ExperimentSize,
) -> Recipe:  # fmt: skip
    """Stage 2 of a method at one rate of its sweep."""
    data, keys = folder / "data", dict(method.keys)
    files: dict[str, float | None] = {"instruct": None}
    if (share := keys.pop("replay", None)) is not None:
        files["text"] = share
    if "text_turns" in keys:
        keys["text_turns"] = {"path": str(data / "text.jsonl"), **keys["text_turns"]}
    if "lora" not in keys:
        keys["freeze_llm"] = not method.trains_llm
    return make_recipe(
        "instruct", data, files, output, {"router": None, **method.wings}, rates_of(method, rate),
        start=str(folder / f"align-{method.align}"), steps=steps, **_common(size, seed), **keys,
    )  # fmt: skip


def rates_of(method: SweptMethod, rate: float) -> dict[str, float]:
    """The learning rate of every group that the method trains."""
    rates = group_rates(method.wings, PROJECTOR_RATE, LEARNER_RATE)
    return rates | dict.fromkeys(method.swept, rate)


def _common(size: ExperimentSize, seed: int) -> dict[str, Any]:
    return {"seed": seed, "batch_size": size.batch_size, "max_length": 320, "bf16": True}
