"""Trains the children, measures their merges, and writes the page.

The comparison that decides was named before the first run: the full fine-tune of the quickstart
merged by the linear weight that `wings merge --sweep` chooses, against the same child unmerged; by
text alone and after an image, with pictures at most 2 points below the child's.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wings.eval.fronts.front import Front, FrontResult
from wings.eval.fronts.measure_front import measure_front
from wings.eval.fronts.questions import FrontQuestions
from wings.eval.models import copy_chat_template, load_eval_model
from wings.eval.processes import Processes
from wings.eval.result_cache import ResultCache
from wings.eval.runner import EvalRunner
from wings.examples.commit import code_version
from wings.examples.resumed import DONE
from wings.examples.training import set_up_worker
from wings.merge.in_place import InPlaceMerge
from wings.merge.plan import MergePlan
from wings.output_folder import OutputFolder

from .children import SEEDS, Family, train_family
from .merges_page import PAGE_FILES, write_page
from .questions import questions_of
from .variants import GENTLE, GROUPS, UNMERGED, points_of

MAKER = "wings.examples.merges"
RUNS, QUESTIONS = "runs.jsonl", "questions.json"
BATCH = 64
LONGEST = {"quickstart": 16, "smollm2": 40}  # tokens of an answer


def run_merges(folder: Path, results: Path, bases: tuple[str, ...] = tuple(SEEDS)) -> None:
    """Trains and measures what is missing, and writes the page after every group.

    Args:
        folder: of data and checkpoints.
        results: of `runs.jsonl`, the page and its plot.
        bases: `quickstart`, `smollm2`, or both.
    """
    set_up_worker()
    work, found = OutputFolder(folder, MAKER), OutputFolder(results, MAKER, "--results")
    with work.locked(), found.locked():
        work.clear()
        found.record(RUNS, QUESTIONS, *PAGE_FILES)
        for base in bases:
            for seed in SEEDS[base]:
                if missing := missing_groups(results, base, seed):
                    family = train_family(work, base, seed)
                    for group in missing:
                        run_group(work, results, family, group)
                        write_page(results)
        write_page(results)


def missing_groups(results: Path, base: str, seed: int) -> list[str]:
    """The groups without lines in `runs.jsonl`; those of a group are written together."""
    path = results / RUNS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    done = {(one["base"], one["seed"], one["group"]) for one in map(json.loads, lines)}
    return [group for group in GROUPS if (base, seed, group) not in done]


def run_group(work: OutputFolder, results: Path, family: Family, group: str) -> None:
    """Measures the merges of a group and adds its lines to `runs.jsonl`."""
    cache = f"cache-{family.base}-{family.seed}"
    work.record(cache)
    processes = Processes()
    runner = EvalRunner(
        processes, ResultCache(work.path / cache, processes), BATCH, LONGEST[family.base]
    )
    questions = questions_of(work, family)
    front = measure_group(family, group, questions, runner)
    add_questions(results, family.base, front)
    version = code_version()
    children = {
        name: json.loads((folder / DONE).read_text(encoding="utf-8"))
        for name, folder in family.folders.items()
    }
    shared = {"base": family.base, "seed": family.seed, "group": group}
    named = [(UNMERGED, front.child), *((one.name, one) for one in front.merges)]
    named += [(GENTLE, one) for one in front.others]
    lines = [
        {**shared, "model": name, **scores_of(result), **version, "children": children}
        for name, result in named
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with (results / RUNS).open("a", encoding="utf-8") as file:
        file.write(text)
    print(f"{family.base} {family.seed} {group}: {len(lines)} models", flush=True)


def measure_group(
    family: Family, group: str, questions: FrontQuestions, runner: EvalRunner
) -> Front:
    """Measures a group's merges; the first group also has the gentle fine-tune."""
    points = points_of(family.base, group, family.llm, family.folders)
    plan = MergePlan.of(points[0].recipe)
    device = torch.device("cpu")
    child = load_eval_model(plan.kept.source.given, device, torch.float32)
    llm = load_eval_model(str(family.llm), device, torch.float32)
    copy_chat_template(llm, child)
    merge = InPlaceMerge(plan, child.model)
    others = []
    if group == "full":
        others = [partial(load_eval_model, str(family.folders["gentle"]), device, torch.float32)]
    return measure_front(llm, child, merge, points, others, questions, runner, 2.0)


def scores_of(result: FrontResult) -> dict[str, Any]:
    """The scores of a model, a digit a question, and KL summed over each answer, in nats."""
    assert result.drift is not None
    return {
        "scores": {
            test: "".join(str(int(score)) for score in scores)
            for test, scores in result.scores.items()
        },
        "alone": [round(answer.alone, 5) for answer in result.drift.answers],
        "after": [round(answer.after, 5) for answer in result.drift.answers],
    }


def add_questions(results: Path, base: str, front: Front) -> None:
    """Writes the questions of an LLM's children and the LLM's own scores, once."""
    path = results / QUESTIONS
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if base in known:
        return
    drift = front.child.drift
    assert drift is not None
    known[base] = {
        **front.questions.to_dict(),
        "llm": {
            test: "".join(str(int(score)) for score in scores)
            for test, scores in front.llm.scores.items()
        },
        "tokens": [answer.tokens for answer in drift.answers],
        "floor": [round(answer.words, 5) for answer in drift.answers],
    }
    path.write_text(json.dumps(known) + "\n", encoding="utf-8")
