"""The experiment's cells: ways to teach one LLM to see, with the recipes of their two stages.

All cells start from the same LLM and tower, and get the same pictures, conversations, steps and
order. A cell is the recipe keys that it adds to both stages.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wings.examples.training import make_recipe
from wings.train.recipe import Recipe

from .size import ExperimentSize

Keys = dict[str, Any]
TOWER = {"pool": 2, "image_size": 112}  # 8 x 8 patches become 16 image tokens
# A third of SmolLM2's thirty blocks has learners, so that two cores can train them.
LEARNER: Keys = {
    "rank": 64, "learner_layers": list(range(0, 30, 3)), "text_guard": True,
    "normalize_sources": True, "init_std": "scaled",
}  # fmt: skip
# Four matrices of this width have the weights of a learner's eight.
CROSS: Keys = {**LEARNER, "learner_form": "cross_attention", "rank": 128}
PLAIN: Keys = {"learners": []}
# One rate of the projector is swept with each rate of the cell's own branch.
PROJECTOR_RATES = (5e-4, 2e-3)
BRANCH_RATES = (5e-4, 2e-3)
LLM_RATES = (2e-5, 1e-4)
TEXT_SHARE = 0.25
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GATE_UP = ["gate_proj", "up_proj"]


def lora(rank: int, gate: str | None = None, stages: str = "both") -> Keys:
    """Recipe keys of LoRA on all linear layers, switched off without an image."""
    return {
        "wings": PLAIN,
        "lora": {
            "rank": rank, "alpha": 2.0 * rank, "guard": True, "gate": gate, "stages": stages,
        },
    }  # fmt: skip


def learners(*names: str, router: str | None = None) -> Keys:
    """Recipe keys of stage 2: learners are trained and the LLM is frozen."""
    return {"wings": {"learners": list(names), "router": router, **LEARNER}, "freeze_llm": True}


# Stage 1 by name. Attended gates act in stage 2 only, so cells with and without one share it.
STAGE_1: dict[str, Keys] = {
    "projector": {"wings": PLAIN},
    "learner": {"wings": {"learners": ["image"], **LEARNER}},
    "lora": lora(10),
    "lora-20": lora(20),
    "visual-expert": lora(10, "image_tokens"),
    "cross-attention": {"wings": {"learners": ["image"], **CROSS}},
}


@dataclass(frozen=True)
class Cell:
    """One method.

    Attributes:
        key: name in files.
        name: name in tables.
        stage_1: the name of its stage 1 in `STAGE_1`.
        stage_2: recipe keys of stage 2.
        swept: key of the cell whose sweep chooses the rates; several cells share one.
        rates: of the cell's own branch in that sweep; the projector's are `PROJECTOR_RATES`.
    """

    key: str
    name: str
    stage_1: str
    stage_2: Keys
    swept: str
    rates: tuple[float, ...] = field(default=BRANCH_RATES)


def _first_block() -> tuple[Cell, ...]:
    cells = []
    for branch, title in (("learner", "image learner"), ("lora", "guarded LoRA")):
        for where, start in (("both stages", branch), ("stage 2 only", "projector")):
            for gate in (None, "attended"):
                stages = "both" if start == branch else "instruct"
                keys = (
                    learners("image", router=gate)
                    if branch == "learner"
                    else lora(10, gate, stages)
                )
                key = f"{branch}-{stages}-{gate or 'open'}"
                name = f"{title}, {where}, {gate or 'no'} gate"
                cells.append(Cell(key, name, start, keys, f"{branch}-both-open"))
    return tuple(cells)


def _full(key: str, title: str, layers: list[str] | None) -> Cell:
    keys: Keys = {"wings": PLAIN, "freeze_llm": False}
    if layers:
        keys["trained_layers"] = layers
    return Cell(key, title, "projector", keys, key, LLM_RATES)


# The first block decides; later blocks are run by `--cells`.
FIRST = _first_block()
LATER = (
    Cell(
        "both-learners-attended", "both learners, both stages, attended gate", "learner",
        learners("image", "text", router="attended"), "both-learners-attended",
    ),
    Cell(
        "lora-20-attended", "guarded LoRA of rank 20, both stages, attended gate", "lora-20",
        lora(20, "attended"), "lora-20-attended",
    ),
    Cell(
        "visual-expert", "LoRA on image tokens only, both stages", "visual-expert",
        lora(10, "image_tokens"), "visual-expert",
    ),
    Cell(
        "cross-attention", "gated cross-attention, both stages", "cross-attention",
        {"wings": {"learners": ["image"], "router": None, **CROSS}, "freeze_llm": True},
        "cross-attention",
    ),
    _full("full-attention", "fine-tune of the attention projections", ATTENTION),
    _full("full-gate-up", "fine-tune of the MLPs' gate and up projections", GATE_UP),
    _full("full", "full fine-tune", None),
)  # fmt: skip
CELLS = (*FIRST, *LATER)
BY_KEY = {cell.key: cell for cell in CELLS}
# The primary comparison, named before the first run.
PRIMARY = ("learner-both-attended", "lora-both-attended")


def group_rates(keys: Keys, projector: float, branch: float) -> dict[str, float]:
    """The learning rate of every parameter group that a stage trains.

    Args:
        keys: of the stage.
        projector: rate of the projector.
        branch: rate of everything else.
    """
    wings = keys["wings"]
    groups = [f"{name}_learners" for name in wings["learners"]]
    if "lora" in keys:
        groups.append("lora")
    if wings.get("router") or keys.get("lora", {}).get("gate") == "attended":
        groups.append("router")
    if keys.get("freeze_llm") is False:
        groups.append("language_model")
    return {"projector": projector, **dict.fromkeys(groups, branch)}


@dataclass(frozen=True)
class Rates:
    """The learning rates of a run, the same in both stages."""

    projector: float
    branch: float


def align_recipe(
    kind: str, rates: Rates, seed: int, steps: int, folder: Path, output: Path,
    size: ExperimentSize,
) -> Recipe:  # fmt: skip
    """Stage 1 of every cell that starts from it: questions about pictures, the LLM frozen."""
    weights = folder / "weights"
    vision = {"model_name": f"local-dir:{weights / 'tower'}", **TOWER}
    return _recipe(
        "align", STAGE_1[kind], rates, seed, steps, folder, output, size,
        model={"vision": vision, "text": str(weights / "llm")},
    )  # fmt: skip


def instruct_recipe(
    cell: Cell, rates: Rates, seed: int, steps: int, folder: Path, start: Path, output: Path,
    size: ExperimentSize,
) -> Recipe:  # fmt: skip
    """Stage 2 of a cell, from the folder `start` of its stage 1."""
    text = str(folder / "data" / "text.jsonl")
    return _recipe(
        "instruct", cell.stage_2, rates, seed, steps, folder, output, size,
        start=str(start), text_turns={"path": text, "share": TEXT_SHARE},
    )  # fmt: skip


def _recipe(
    stage: str, stage_keys: Keys, rates: Rates, seed: int, steps: int, folder: Path, output: Path,
    size: ExperimentSize, **more: Any,
) -> Recipe:  # fmt: skip
    keys = dict(stage_keys)
    wings = {"router": None, **keys.pop("wings")}
    return make_recipe(
        stage, folder / "data", {stage: None}, output, wings,
        group_rates(stage_keys, rates.projector, rates.branch),
        steps=steps, seed=seed, batch_size=size.batch_size, max_length=320, bf16=True,
        **keys, **more,
    )  # fmt: skip
