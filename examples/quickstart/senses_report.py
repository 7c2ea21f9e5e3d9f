"""Results of `wings quickstart --audio`: tables, `report.md`, `plot.png`, `results.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wings.config_values import RULES
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.scoring.score import is_exact
from wings.examples.pages import join_parts, markdown_table
from wings.machine import machine, versions

from .hearing import BOTH, HEARS, SEES, rule_key
from .report import total
from .senses_plot import plot_senses
from .sounds import KINDS

TITLE = "A small language model learns to see and to hear"
# Rows of the two tables: what is asked, and the test.
ONE_SENSE = {
    "text alone": "text",
    "text after a picture": "mixed",
    "text after a sound": "text_after_sound",
    "pictures": "pictures",
    "sounds": "sounds",
}
TWO_SENSES = {
    "text after both": "text_after_both",
    "pictures after a sound": "pictures_after_sound",
    "sounds after a picture": "sounds_after_picture",
}
LEGEND = (
    "Percent of held-out questions. Sees and hears were trained apart beside one frozen language"
    " model; both is their composition, and nothing more was trained. All sounds are in voices that"
    " no training had; new sums are of two numbers that no training added."
)
TWO = (
    "Questions after a picture and a sound, by the rule that shares a token between two senses."
    " Alone: both, asked after one of the two, or about the picture or the sound alone."
)


@dataclass(frozen=True)
class SensesResult:
    """Scores by row: of the two tables, and the rows of kinds of sounds.

    Attributes:
        models: column -> row -> accuracy, of `ONE_SENSE` and of the kinds of sounds.
        rules: rule -> row -> accuracy, of `TWO_SENSES`.
        alone: row of `TWO_SENSES` -> accuracy of the composed model without the other sense.
    """

    models: dict[str, dict[str, Accuracy]]
    rules: dict[str, dict[str, Accuracy]]
    alone: dict[str, Accuracy]


def read_results(results: dict[str, dict[str, Any]]) -> SensesResult:
    """The scores that the jobs measured."""
    columns = {"sees": SEES, "hears": HEARS, "both": BOTH}
    models = {"the LLM": {"text alone": total(results["before"]["text"])}}
    for name, key in columns.items():
        scores = results[key]["scores"]
        rows = {row: total(scores[test]) for row, test in ONE_SENSE.items() if test in scores}
        kinds = scores["sounds"]["kinds"] if "sounds" in scores else {}
        rows |= {f"{kind}s": total(kinds[kind]) for kind in KINDS if kind in kinds}
        models[name] = rows
    rules = {
        rule: {
            row: total(results[rule_key(rule)]["scores"][test]) for row, test in TWO_SENSES.items()
        }
        for rule in RULES
    }
    both = models["both"]
    alone = {
        "text after both": both["text after a picture"] + both["text after a sound"],
        "pictures after a sound": both["pictures"],
        "sounds after a picture": both["sounds"],
    }
    return SensesResult(models, rules, alone)


def tables(result: SensesResult) -> list[tuple[list[str], list[list[Accuracy | str | None]]]]:
    """Head and rows of the two tables; None for what a model cannot be asked."""
    kinds = [f"{kind}s" for kind in dict.fromkeys(KINDS)]
    names = [name for name in (*ONE_SENSE, *kinds) if name in result.models["both"]]
    one: list[list[Accuracy | str | None]] = [
        [name, *(rows.get(name) for rows in result.models.values())] for name in names
    ]
    two: list[list[Accuracy | str | None]] = [
        [row, alone, *(rows[row] for rows in result.rules.values())]
        for row, alone in result.alone.items()
    ]
    return [(["", *result.models], one), (["", "alone", *result.rules], two)]


def print_tables(console: Console, result: SensesResult) -> None:
    """Prints both tables, without intervals."""
    for (head, rows), title, legend in zip(
        tables(result), (TITLE, "Both, after a picture and a sound"), (LEGEND, TWO), strict=True
    ):
        table = Table(
            title=title, title_style="bold", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        for name in head:
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(shown(value, intervals=False) for value in row))
        console.print()
        console.print(table)
        console.print(legend, style="dim")


def shown(value: Accuracy | str | None, intervals: bool = True) -> str:
    """A cell of a table."""
    if isinstance(value, Accuracy):
        return str(value) if intervals else f"{value.percent:.1f}"
    return value or ""


def save(folder: Path, result: SensesResult, document: dict[str, Any]) -> None:
    """Writes `plot.png`, `report.md` and `results.json`.

    Args:
        folder: of the quickstart.
        result: of `read_results`.
        document: seed, seconds, size, speaker, the turns of `talk` and the results of all jobs.
    """
    talk = document["talk"]
    plot_senses(folder / "plot.png", result.models, result.rules, result.alone, TITLE)
    one, two = (
        markdown_table(head, [[shown(value) for value in row] for row in rows])
        for head, rows in tables(result)
    )
    seed, seconds = document["seed"], document["seconds"]["total"]
    words = document["jobs"]["encoder"]["words_recognised"]
    machine_ = machine()
    page = join_parts(
        (
            f"# {TITLE}",
            "![questions answered by each model](plot.png)",
            one,
            LEGEND,
            two,
            TWO,
            same_rows(document["jobs"][BOTH]["same_logits"]),
            f"{document['speaker']} The audio encoder recognises {words:.0f}% of single words in"
            " new voices.",
            f"## One conversation\n\n![the picture]({talk[0]['picture']})",
            markdown_table(("", "question", "answer", "right"), map(conversation_row, talk)),
            f"The rule is {document['jobs'][BOTH]['rule']}; every turn follows the model's own"
            " answers before it. A wrong answer has the right one beside it.",
            f"`wings quickstart --audio --seed {seed}`: {seconds:.0f} seconds and"
            f" {document['cpu_seconds']:.0f} of processor time on {machine_['cores']} CPU"
            f" cores ({machine_['processor']}). Intervals are over the questions of one seed. All"
            " figures: results.json.",
        )
    )
    (folder / "report.md").write_text(page, encoding="utf-8")
    document = {**document, "machine": machine_, "versions": versions()}
    (folder / "results.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def same_rows(same: dict[str, dict[str, int]]) -> str:
    """A sentence on the rows whose logits are those of another model to the last bit."""
    others = {"text": "the language model", "pictures": "sees", "sounds": "hears"}
    parts = [
        f"of {other} in {same[test]['equal']} of {same[test]['compared']} rows of {test}"
        for test, other in others.items()
    ]
    return f"To the last bit, both has the logits {', '.join(parts)}."


def conversation_row(turn: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a turn: its picture or sound, the question, the answer, the right one if another."""
    source = f'"{turn["said"]}" ({turn["voice"]})' if "sound" in turn else ""
    source = "the picture" if "picture" in turn else source
    right = "" if is_exact(turn["answer"], turn["right"]) else turn["right"]
    return source, turn["question"], turn["answer"], right
