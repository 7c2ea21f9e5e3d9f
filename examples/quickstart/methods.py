"""The rows of the comparison: ways in which a language model may learn to see.

Every row gets the same pictures, the same conversations and the same number of steps. A row
differs in what is trained, at which rate, and which learners hang beside the attention.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wings.train.recipe import Names, Recipe, Source

ALIGN_RATE = 2e-3
PROJECTOR_RATE = 1e-3
FAST, SLOW = 3e-3, 3e-4  # rates of the language model: one that forgets, one that hardly does
PAPER = {"learners": ["image", "text"], "router": "position"}
PLAIN: dict[str, Any] = {"learners": []}
# What a small study spoke for: sources of equal size, larger first factors, no router, and silence
# on text.
TUNED = {
    "learners": ["image", "text"],
    "router": None,
    "normalize_sources": True,
    "init_std": "scaled",
    "text_guard": True,
}


@dataclass(frozen=True)
class Row:
    """One way to learn to see.

    Attributes:
        key: name of its folder.
        name: as the table prints it.
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
        """Options of the first stage: the visual learner alone, no router."""
        kept = {name: value for name, value in self.wings.items() if name != "router"}
        return {**kept, "learners": ["image"] if self.wings["learners"] else [], "router": None}

    @property
    def title(self) -> str:
        """Name, and the rate where the language model is trained."""
        if self.llm_rate is None:
            return self.name
        return f"{self.name} at {self.llm_rate:.0e}".replace("e-0", "e-")

    @property
    def first_stage_name(self) -> str:
        """What the first stage trains."""
        if not self.wings["learners"]:
            return "projector"
        return "projector, visual learners" + (", tuned" if "init_std" in self.wings else "")

    @property
    def rates(self) -> dict[str, float]:
        """Learning rate of every group that the second stage trains."""
        rates = {"projector": PROJECTOR_RATE}
        rates |= {f"{learner}_learners": self.learner_rate for learner in self.wings["learners"]}
        if self.wings["learners"] and self.wings["router"]:
            rates["router"] = self.learner_rate
        if self.llm_rate:
            rates["language_model"] = self.llm_rate
        return rates


ROWS = (
    Row("wings-frozen", "Wings, LLM frozen, text guard", TUNED, learner_rate=3e-3),
    Row("wings-fast", "Wings, LLM trained", PAPER, llm_rate=FAST),
    Row("full-fast", "full fine-tune", llm_rate=FAST),
    Row("full-slow", "full fine-tune", llm_rate=SLOW),
    Row("projector", "projector only, LLM frozen"),
    Row("wings-slow", "Wings, LLM trained", PAPER, llm_rate=SLOW, default=False),
    Row(
        "wings-paper-frozen",
        "Wings as published, LLM frozen",
        {**PAPER, "text_guard": True},
        default=False,
    ),
    Row(
        "wings-image-frozen",
        "visual learner, LLM frozen",
        {**TUNED, "learners": ["image"]},
        learner_rate=3e-3,
        default=False,
    ),
)


def align_recipe(row: Row, data: Path, models: Path, output: Path, steps: int, seed: int) -> Recipe:
    """The first stage of a row: captions."""
    learners = {"image_learners": row.learner_rate} if row.wings["learners"] else {}
    return Recipe(
        stage="align",
        output=str(output),
        data=[Source(path=str(data / "captions.jsonl"), images=str(data))],
        model=Names(
            vision=f"local-dir:{models / 'tower'}",
            text=str(models / "llm"),
        ),
        wings=row.first_stage,
        learning_rates={"projector": ALIGN_RATE, **learners},
        **common(steps, seed),
    )


def instruct_recipe(
    row: Row, data: Path, start: Path, output: Path, steps: int, seed: int
) -> Recipe:
    """The second stage of a row: conversations about pictures."""
    return Recipe(
        stage="instruct",
        output=str(output),
        data=[Source(path=str(data / "pictures.jsonl"), images=str(data))],
        start=str(start),
        wings=row.wings,
        freeze_llm=row.llm_rate is None,
        learning_rates=row.rates,
        **common(steps, seed),
    )


def common(steps: int, seed: int) -> dict[str, Any]:
    """What both stages share."""
    return {
        "steps": steps,
        "seed": seed,
        "batch_size": 16,
        "max_length": 256,
        "warmup_ratio": 0.05,
        "log_every": 5,
        # The board shows the losses, and what comes out of it is a table.
        "trackers": [],
    }
