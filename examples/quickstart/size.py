"""How much work a quickstart is."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Amounts:
    """How many records each data file gets."""

    text: int = 70000  # exchanges the language model learns from
    captions: int = 3200
    conversations: int = 4000
    held_out: int = 240  # items of each of the three tests

    @property
    def total(self) -> int:
        """Records of all files."""
        counts = asdict(self)
        return sum(counts.values()) + 2 * self.held_out


@dataclass(frozen=True)
class Size:
    """Records, and optimiser steps of every training."""

    amounts: Amounts = field(default_factory=Amounts)
    tower_steps: int = 300
    llm_steps: int = 2600
    align_steps: int = 200
    instruct_steps: int = 350
