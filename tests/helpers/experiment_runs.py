"""Made-up results of `wings experiment`, and what the tables of its pages show."""

import random

from wings.examples.experiment.cells import FIRST
from wings.examples.experiment.runs import (
    FIGURES,
    SEEDS,
    ExperimentRun,
    RunResult,
    Stage1,
    pending_tasks,
)
from wings.examples.experiment.size import ExperimentSize

SIZE = ExperimentSize()
KINDS = {"pictures": {"name": 12, "scene": 8}, "style": {"style": 6}, "blank": {"name": 4},
         "text": {"sums": 10, "facts": 5}, "mixed": {"sums": 10, "facts": 5}}  # fmt: skip


def bits(rng, share, test):
    return {k: [int(rng.random() < share) for _ in range(n)] for k, n in KINDS[test].items()}


def some_llm():
    rng = random.Random(0)
    clusters = {t: {k: [f"{k} {n // 2}" for n in range(c)] for k, c in kinds.items()}
                for t, kinds in KINDS.items()}  # fmt: skip
    scores = {test: bits(rng, 0.6, test) for test in ("text", "mixed")}
    return {
        "test": {"scores": scores}, "clusters": {"test": clusters},
        "kl": {"alone": [0, 0], "mixed": [0.4, 0.7], "tokens": [4, 6]},
        "guess": {test: bits(rng, 0.2, test) for test in ("pictures", "style")},
    }  # fmt: skip


LLM = some_llm()


def result(run: ExperimentRun, share: float = 0.7) -> RunResult:
    rng = random.Random(f"{run}")
    figures = {"cpu_seconds": 100.0 + run.seed, "seconds": 1.0, "memory_mib": 900 + run.seed}
    return RunResult(run, {
        "trained": {"projector": 5, "image_learners": 2_950_000},
        "stage_1": figures, "stage_2": figures, "scoring": 3.0,
        "scores": {test: bits(rng, share, test) for test in KINDS},
        "same": bits(rng, 0.5, "mixed"),
        "kl": {"alone": [0.0, 0.0], "mixed": [rng.random(), rng.random()], "tokens": [4, 6]},
    })  # fmt: skip


def finish(stage: Stage1, folder):
    stage.output(folder).mkdir(parents=True, exist_ok=True)
    (stage.output(folder) / FIGURES).write_text("{}")


def everything(folder, cells=FIRST, seeds=SEEDS, share=lambda run: 0.7):
    """Does every task in its order; returns the order and the results."""
    done: list[RunResult] = []
    order = []
    while task := next(pending_tasks(done, folder, cells, seeds, SIZE), None):
        order.append(task)
        if isinstance(task, Stage1):
            finish(task, folder)
        else:
            done.append(result(task, share(task)))
    return order, done


def rows_of(page, first):
    """The rows of the first table with this first header, by their first cells."""
    (table, *_) = [t for t in page.split("\n\n") if t.startswith(f"| {first} |")]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


def value_of(cell):
    return float(cell.partition(" ")[0])


def count(kinds):
    return sum(map(sum, kinds.values()))


def mean(values):
    values = list(values)
    return sum(values) / len(values)
