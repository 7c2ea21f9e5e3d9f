"""The methods of the experiment: ways in which one LLM may learn to see, one recipe key apart.

All start from the same LLM and the same tower, and get the same pictures, conversations, steps and
order. A method is what it adds to one common recipe.
"""

from dataclasses import dataclass, field
from typing import Any

# Blocks with learners: a third of SmolLM2's thirty, which two cores can train.
LEARNER_LAYERS = list(range(0, 30, 3))
TUNED = {"normalize_sources": True, "init_std": "scaled"}
# What stage 1 trains beside the projector. Methods that agree in it share the checkpoint.
ALIGNS: dict[str, dict[str, Any]] = {
    "projector": {"learners": []},
    "wings": {"learner_layers": LEARNER_LAYERS},
    "normalized": {"learner_layers": LEARNER_LAYERS, "normalize_sources": True},
    "tuned": {"learner_layers": LEARNER_LAYERS, **TUNED},
}
LLM_RATES = (2e-5, 1e-4, 5e-4)
LEARNER_RATES = (2e-4, 5e-4, 2e-3)
LORA_RATES = (1e-4, 5e-4, 2e-3)
PLAIN: dict[str, Any] = {"learners": []}
BOTH: dict[str, Any] = {"learners": ["image", "text"]}
FROZEN: dict[str, Any] = {**BOTH, "router": None, "text_guard": True}
TEXT_TURNS = {"text_turns": {"share": 0.25}}
LORA: dict[str, Any] = {"lora": {"rank": 16, "alpha": 32.0}}


@dataclass(frozen=True)
class Method:
    """One way to learn to see.

    Attributes:
        key: in names of files.
        name: in the table.
        align: which of `ALIGNS` it goes on from.
        wings: options of the model in stage 2.
        swept: the parameter groups that take the rate of the sweep.
        rates: of the sweep, rising.
        keys: what else it adds to the recipe.
        trains_llm: whether the LLM's own weights move.
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


def trained(key: str, name: str, align: str, wings: dict[str, Any], **keys: Any) -> Method:
    """A method that trains the LLM, whose rate is swept."""
    return Method(key, name, align, wings, ("language_model",), LLM_RATES, keys, trains_llm=True)


def frozen(key: str, name: str, wings: dict[str, Any], **keys: Any) -> Method:
    """Wings beside a frozen LLM, with the learners' rate swept."""
    groups = tuple(f"{name}_learners" for name in wings["learners"])
    if wings["router"] is not None:
        groups += ("router",)
    return Method(key, name, "tuned", wings, groups, LEARNER_RATES, keys)


METHODS = (
    frozen("wings-frozen", "Wings, LLM frozen, text guard", FROZEN),
    trained("full", "full fine-tune", "projector", PLAIN),
    frozen("wings-text-turns", "Wings frozen, text turns", FROZEN, **TEXT_TURNS),
    frozen(
        "wings-retention", "Wings frozen, text turns, retention", FROZEN,
        kl_to_base={"weight": 1.0}, **TEXT_TURNS,
    ),
    Method("projector", "projector only", "projector", PLAIN, ("projector",), LEARNER_RATES),
    trained("full-text-turns", "full fine-tune, text turns", "projector", PLAIN, **TEXT_TURNS),
    Method("lora", "LoRA", "projector", PLAIN, ("lora",), LORA_RATES, LORA),
    trained("full-replay", "full fine-tune, 10% text replayed", "projector", PLAIN, replay=0.1),
    trained("wings", "Wings as published", "wings", {**BOTH, "router": "position"}),
    Method(
        "wings-fresh", "Wings frozen, learners new in stage 2", "projector",
        {**FROZEN, "learner_layers": LEARNER_LAYERS, **TUNED},
        ("image_learners", "text_learners"), LEARNER_RATES,
    ),
    frozen(
        "wings-attended", "Wings frozen, attended router", {**FROZEN, "router": "attended"},
    ),
    Method(
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
    Method(
        "projector-text-turns", "projector only, text turns", "projector", PLAIN,
        ("projector",), LEARNER_RATES, TEXT_TURNS,
    ),
    Method(
        "lora-text-turns", "LoRA, text turns", "projector", PLAIN,
        ("lora",), LORA_RATES, {**LORA, **TEXT_TURNS},
    ),
)  # fmt: skip
BY_KEY = {method.key: method for method in METHODS}
