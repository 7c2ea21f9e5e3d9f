"""The methods that the quickstart compares, and the recipes of their two stages.

Every method gets the same pictures, conversations and number of steps. Methods differ in the
trained parts, their learning rates, and the learners beside the attention.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wings.examples.training import group_rates, make_recipe
from wings.train.recipe import Recipe

ALIGN_RATE = 2e-3
PROJECTOR_RATE = 1e-3
FAST, SLOW = 3e-3, 3e-4  # rates of the language model: at FAST it forgets, at SLOW it hardly does
COMMON = {"batch_size": 16, "max_length": 256}
PAPER = {"learners": ["image", "text"], "router": "position"}
PLAIN: dict[str, Any] = {"learners": []}
# Chosen in a small study: normalized sources, scaled first factors, no router, and a text guard.
TUNED = {
    "learners": ["image", "text"],
    "router": None,
    "normalize_sources": True,
    "init_std": "scaled",
    "text_guard": True,
}


@dataclass(frozen=True)
class Method:
    """One way to teach a language model to see.

    Attributes:
        key: name of its folder.
        name: name in the table.
        wings: options of `WingsConfig` in the second stage.
        llm_rate: learning rate of the language model in the second stage; None keeps it frozen.
        learner_rate: of the learners and the router.
        default: whether it runs without `--all`.
    """

    key: str
    name: str
    wings: dict[str, Any] = field(default_factory=lambda: dict(PLAIN))
    llm_rate: float | None = None
    learner_rate: float = 1e-3
    default: bool = True

    @property
    def first_stage(self) -> dict[str, Any]:
        """Options of the first stage: the image learner alone, no router."""
        options = {name: value for name, value in self.wings.items() if name != "router"}
        return {**options, "learners": ["image"] if self.wings["learners"] else [], "router": None}

    @property
    def title(self) -> str:
        """The name, and the learning rate where the language model is trained."""
        if self.llm_rate is None:
            return self.name
        return f"{self.name} at {self.llm_rate:.0e}".replace("e-0", "e-")

    @property
    def first_stage_name(self) -> str:
        """The parts that the first stage trains."""
        if not self.wings["learners"]:
            return "projector"
        return "projector, visual learners" + (", tuned" if "init_std" in self.wings else "")

    @property
    def rates(self) -> dict[str, float]:
        """Learning rate of every group that the second stage trains."""
        rates = group_rates(self.wings, PROJECTOR_RATE, self.learner_rate)
        return rates | ({"language_model": self.llm_rate} if self.llm_rate else {})


METHODS = (
    Method("wings-frozen", "Wings, LLM frozen, text guard", TUNED, learner_rate=3e-3),
    Method("wings-fast", "Wings, LLM trained", PAPER, llm_rate=FAST),
    Method("full-fast", "full fine-tune", llm_rate=FAST),
    Method("full-slow", "full fine-tune", llm_rate=SLOW),
    Method("projector", "projector only, LLM frozen"),
    Method("wings-slow", "Wings, LLM trained", PAPER, llm_rate=SLOW, default=False),
    Method(
        "wings-paper-frozen", "Wings as published, LLM frozen", {**PAPER, "text_guard": True},
        default=False,
    ),
    Method(
        "wings-image-frozen", "visual learner, LLM frozen", {**TUNED, "learners": ["image"]},
        learner_rate=3e-3, default=False,
    ),
)  # fmt: skip


def align_recipe(
    method: Method, data: Path, models: Path, output: Path, steps: int, seed: int
) -> Recipe:
    """The first stage of a method: captions."""
    wings = method.first_stage
    rates = group_rates(wings, ALIGN_RATE, method.learner_rate)
    names = {"vision": f"local-dir:{models / 'tower'}", "text": str(models / "llm")}
    return make_recipe(
        "align", data, {"captions": None}, output, wings, rates, model=names, steps=steps,
        seed=seed, **COMMON,
    )  # fmt: skip


def instruct_recipe(
    method: Method, data: Path, start: Path, output: Path, steps: int, seed: int
) -> Recipe:
    """The second stage of a method: conversations about pictures."""
    return make_recipe(
        "instruct", data, {"pictures": None}, output, method.wings, method.rates, start=str(start),
        freeze_llm=method.llm_rate is None, steps=steps, seed=seed, **COMMON,
    )  # fmt: skip
