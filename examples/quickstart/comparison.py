"""`Comparison`: methods that teach a language model to see, each trained, scored and shown."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from wings.examples.schedule import Job, ProgressTable

from . import demo, jobs, report
from .dataset import QuickstartAmounts, QuickstartSize, Writer
from .methods import Method

FIRST = "showcase/1.png"
PREFLIGHT_SIZE = QuickstartSize(
    QuickstartAmounts(text=300, captions=16, conversations=16, held_out=6),
    tower_steps=2,
    llm_steps=2,
    align_steps=1,
    instruct_steps=2,
)


@dataclass(frozen=True)
class Comparison:
    """Plan of `wings quickstart`: draws pictures, trains every method and reports.

    Attributes:
        methods: of the table; the demo asks the first.
        seed: of pictures, conversations, new weights and order.
        size: of data and trainings.
        from_nothing: also trains the language model and the vision tower.
    """

    methods: Sequence[Method]
    seed: int
    size: QuickstartSize
    from_nothing: bool = False

    @property
    def introduction(self) -> str:
        """A sentence to begin with; there is none."""
        return ""

    def preflight(self) -> "Comparison":
        """The same parts on a few samples; of methods that differ in rates alone, one."""
        return replace(self, methods=one_of_each_kind(self.methods), size=PREFLIGHT_SIZE)

    def draw(self, table: ProgressTable, folder: Path) -> None:
        """Writes the pictures and conversations, with a bar."""
        amounts = self.size.amounts
        if not self.from_nothing:
            amounts = replace(amounts, text=0)
        total, done = amounts.total, 0
        table.begin("draw", "draw pictures, write conversations", total)

        def count() -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                table.step("draw", done, total)

        writer = Writer(folder, self.seed, count)
        writer.write(amounts)
        table.finish("draw", f"{writer.pictures:,} pictures, {total:,} conversations")

    def jobs(self, folder: Path) -> list[Job]:
        """All jobs after the drawing."""
        return jobs.make_schedule(
            list(self.methods), folder, self.seed, self.size, self.from_nothing
        )

    def print_results(self, console: Console, results: dict[str, Any]) -> None:
        """Prints the table."""
        report.print_table(console, *report.read_results(list(self.methods), results))

    def ask(self, console: Console, pool: Executor, folder: Path) -> list[dict[str, Any]]:
        """Asks the first method's checkpoint about new pictures; returns what was asked."""
        return demo.show(console, pool, folder, self.checkpoint(folder), self.seed)

    def save(
        self, folder: Path, results: dict[str, Any], shown: list[dict], seconds: dict[str, float]
    ) -> None:
        """Writes the report."""
        about = {"seed": self.seed, "size": self.shown_size(), "seconds": seconds}
        document = {**about, "showcase": shown, "jobs": results}
        report.save(folder, *report.read_results(list(self.methods), results), document)

    def shown_size(self) -> dict[str, Any]:
        """The size for results.json, with the records that were written."""
        size = self.size
        if not self.from_nothing:
            size = replace(size, amounts=replace(size.amounts, text=0))
        return asdict(size)

    def llm(self, folder: Path) -> Path:
        """The language model that all methods start from."""
        return jobs.models_folder(folder, self.from_nothing) / "llm"

    def checkpoint(self, folder: Path) -> Path:
        """The checkpoint of the first method."""
        return folder / "rows" / self.methods[0].key

    def commands(self, folder: Path) -> list[str]:
        """Commands to go on with."""
        first = self.checkpoint(folder)
        return [
            f"wings chat {first} --image {folder / FIRST}",
            f"wings eval {first} --against {folder / 'llm'}",
        ]


def one_of_each_kind(methods: Sequence[Method]) -> list[Method]:
    """The first of the methods that have the same parts and train the same parts."""
    kinds = {(str(method.wings), *method.rates): method for method in reversed(methods)}
    return list(kinds.values())[::-1]
