"""The experiment's cells: ways to teach one LLM to see.

All cells start from the same LLM and tower, and get the same pictures, conversations, steps and
order. A cell is the recipe keys that it adds to both stages.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

Keys = dict[str, Any]
# SmolLM2's blocks that have learners: ten, or all thirty.
BLOCKS = {
    "third": list(range(0, 30, 3)), "every": list(range(30)),
    "early": list(range(10)), "late": list(range(20, 30)),
}  # fmt: skip
WHERE = {
    "third": "every third block", "every": "every block", "early": "the first ten blocks",
    "late": "the last ten blocks",
}  # fmt: skip
# A third of the thirty blocks has learners, so that two cores can train them.
LEARNER: Keys = {
    "rank": 64, "learner_layers": BLOCKS["third"], "text_guard": True,
    "normalize_sources": True, "init_std": "scaled",
}  # fmt: skip
# Four matrices of this width have the weights of a learner's eight.
CROSS: Keys = {**LEARNER, "learner_form": "cross_attention", "rank": 128}
RANKS = (64, 16)
PLAIN: Keys = {"learners": []}
# One rate of the projector is swept with each rate of the cell's own branch.
PROJECTOR_RATES = (5e-4, 2e-3)
BRANCH_RATES = (5e-4, 2e-3)
LLM_RATES = (2e-5, 1e-4)
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


def start_of(blocks: str, rank: int) -> str:
    """The name of stage 1 of image learners in some blocks."""
    return "learner" if (blocks, rank) == ("third", 64) else f"learner-{blocks}-{rank}"


# Stage 1 by name. Attended gates act in stage 2 only, so cells with and without one share it.
STAGE_1: dict[str, Keys] = {
    "projector": {"wings": PLAIN},
    "learner": {"wings": {"learners": ["image"], **LEARNER}},
    "lora": lora(10),
    "lora-20": lora(20),
    "visual-expert": lora(10, "image_tokens"),
    "cross-attention": {"wings": {"learners": ["image"], **CROSS}},
    # Of the comparison of costs.
    **{
        start_of(blocks, rank): {
            "wings": {
                "learners": ["image"],
                **LEARNER,
                "rank": rank,
                "learner_layers": BLOCKS[blocks],
            }
        }
        for blocks, rank in itertools.product(BLOCKS, RANKS)
    },
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


def _cheap(both: bool, blocks: str, rank: int, shared: bool = False) -> Cell:
    """A row of the comparison of costs; two of the rows are cells of the other blocks."""
    base = BY_KEY["both-learners-attended" if both else "learner-both-attended"]
    if (blocks, rank, shared) == ("third", 64, False):
        return base
    keys = learners(*(("image", "text") if both else ("image",)), router="attended")
    keys["wings"] |= {"rank": rank, "learner_layers": BLOCKS[blocks]}
    key, name = f"image-{blocks}-{rank}", "image learner"
    if both:
        key, name = f"both-{blocks}-{rank}", "both learners"
    if shared:
        keys["wings"]["share_factors"] = True
        key, name = f"{key}-shared", f"{name} with shared factors"
    name = f"{name}, {WHERE[blocks]}, rank {rank}, attended gate"
    return Cell(key, name, start_of(blocks, rank), keys, base.swept)


# Rows of the comparison of costs. They take the rates of the sweep of their own kind of learners.
CHEAP = (
    *(
        _cheap(both, blocks, rank)
        for both, blocks, rank in itertools.product((False, True), BLOCKS, RANKS)
    ),
    *(_cheap(True, "third", rank, shared=True) for rank in RANKS),
)
BY_KEY |= {cell.key: cell for cell in CHEAP}
# The primary comparison, named before the first run.
PRIMARY = ("learner-both-attended", "lora-both-attended")
