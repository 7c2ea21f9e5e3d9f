"""The page of the study, made from `llm.json` and `runs.jsonl`."""

import json
from collections.abc import Sequence
from pathlib import Path

from wings.examples.experiment.experiment_page import findings
from wings.examples.experiment.recipes import TEXT_SHARE
from wings.examples.pages import join_parts, markdown_table
from wings.machine import processor_name

from .rows import FIRST, LLM_RATES, PRIMARY, RATES, ROWS, TRAININGS
from .senses_plot import plot
from .senses_recipes import steps_of
from .senses_results import RowResult, results_of
from .senses_size import SensesSize
from .senses_tables import (
    blank_table,
    kind_tables,
    main_table,
    pair_table,
    primary,
    reference,
    seed_table,
    summarize,
)

PAGE_FILES = ("README.md", "senses.png")
PLANNED = 3  # seeds
SETUP = (
    "SmolLM2-135M-Instruct (Apache-2.0) sees through DINOv2 ViT-S/14 (Apache-2.0) and hears through"
    " the encoder of Whisper base (MIT), all from ordinary Python packages. Pictures are OpenMoji's"
    " drawings (openmoji.org, CC BY-SA 4.0) and scenes of coloured shapes. Sounds are words, sums"
    " and questions that eSpeak NG says; those of the tests are in voices that no training had. The"
    " questions are those of *Is Extending Modality The Right Path Towards Omni-Modality?*"
    " (2506.01872): does a further sense hurt the language, can models that were extended apart be"
    " put together, and does joint training beat one sense after the other."
)
ROWS_SAID = (
    "*Wings* are learners for the items of a sense and for text, in every third block, with the"
    " attended router and a guard, beside a frozen LLM. *Composed* puts the two models *alone*"
    " together without training, by a rule for tokens that see both. *Joint* trains both senses at"
    " once, in as many steps as both need alone. *Then* adds the second sense to the model of the"
    " first one. *Full fine-tune* trains the LLM in stage 2, without learners. *Merged* merges the"
    " LLMs of two full fine-tunes (`wings merge`), and keeps the projector of each. Only the rows"
    " with more steps were trained on questions that need both."
)
COLUMNS = (
    "*Need both* are percent of questions that need a picture and a sound, by the likeliest of four"
    " choices. *Pictures* and *sounds* are percent of generated answers that mention the"
    " reference. *Text* counts right answers with the LLM's as 100, *after* a question about a"
    " picture or a sound and its answer. *KL* is KL(LLM || model) in nats a token on held-out"
    " answers of the LLM. Brackets hold the 95% interval over questions and seeds (bootstrap;"
    " questions that show the same drawing or say the same words are one unit; seeds are those of"
    " both stages). *Trained* are all weights that trainings moved. *Seconds* are those of one core"
    " for all trainings that a row needs; composing and merging take none."
)
KINDS_SAID = (
    "*Named*: what is seen and the word that is said. *Colour*: the colour of the shape that is"
    " said. *Asked*: a spoken question about the picture. Chance is 25 percent of each."
)


def write_page(folder: Path, results: Sequence[RowResult], size: SensesSize) -> None:
    """Writes `README.md` and the plot from `llm.json` and the rows that are finished."""
    llm = json.loads((folder / "llm.json").read_text(encoding="utf-8"))
    found = {key: of for key in ROWS if (of := summarize(results, key, llm)) is not None}
    first = [found[key] for key in FIRST if key in found]
    rest = [of for key, of in found.items() if key not in FIRST]
    parts = [
        "# Two senses: joint, one after the other, composed and merged",
        primary(results, PRIMARY, llm),
        findings(folder),
    ]
    if first:
        plot(folder / "senses.png", first)
        parts += [main_table(first), "![Sounds, pictures, both, and text](senses.png)"]
    parts += [reference(llm), SETUP, ROWS_SAID, COLUMNS, made(size)]
    if rest:
        parts += ["## Further rows", main_table(rest)]
    if pairs := pair_table(results, llm):
        parts += ["## Pairs of rows", "Paired differences on the same questions and seeds.", pairs]
    every = [*first, *rest]
    parts += ["## By kind", KINDS_SAID, *kind_tables(every, llm)]
    if blank := blank_table(every):
        parts += [
            "## Without one of the two",
            f"The first {size.blank} questions that need both, asked again with a grey picture, and"
            " with silence.",
            blank,
        ]
    parts += ["## Every seed", seed_table(results, llm)]
    parts += ["## The trainings", training_table(size), not_done(results)]
    (folder / "README.md").write_text(join_parts(parts), encoding="utf-8")


def made(size: SensesSize) -> str:
    """The command, machine and length of the runs."""
    rates = "; ".join(
        f"{sense}, {stage}: {projector:g} and {others:g}"
        for (sense, stage), (projector, others) in RATES.items()
    )
    return (
        f"`python -m wings.examples.senses`, one job a core of {processor_name()};"
        f" {size.batch_size} conversations a step, text turns after {TEXT_SHARE:.0%} of the"
        f" conversations of stage 2. Rates of projectors, and of learners and routers: {rates}."
        f" The LLM's is {LLM_RATES['slow']:g}, or {LLM_RATES['fast']:g} where the row says so. No"
        " row was swept. Every row of a seed is a line of `runs.jsonl` with the commit of its code;"
        " the same command does what is missing there."
    )


def training_table(size: SensesSize) -> str:
    """Stage, data, start and steps of every training."""
    rows = [
        (
            one.name, one.stage, " and ".join(one.data), one.start or "-",
            f"LLM at {LLM_RATES[one.llm_rate]:g}" if one.llm_rate
            else "learners" if one.learners else "projector alone", steps_of(one, size),
        )
        for one in TRAININGS.values()
    ]  # fmt: skip
    return markdown_table(("training", "stage", "data", "starts from", "trains", "steps"), rows)


def not_done(results: Sequence[RowResult]) -> str:
    """The rows with fewer seeds than planned; empty where there are none."""
    lacking = [row.title for key, row in ROWS.items() if len(results_of(results, key)) < PLANNED]
    if not lacking:
        return ""
    return f"**Not done yet** (fewer than {PLANNED} seeds): {'; '.join(lacking)}."
