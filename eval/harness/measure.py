"""Both models' results in tasks of lm-evaluation-harness, task by task."""

import math
import random
from collections.abc import Mapping
from typing import Any

from wings.eval.fingerprint import fingerprint
from wings.eval.models import EvalModel
from wings.eval.report.samples import SAMPLES
from wings.eval.runner import EvalRunner
from wings.upstream.harness import simple_evaluate

from .chosen import ChosenTasks
from .comparison import TaskComparison, TaskResult
from .model import WingsLM

PLAIN = "none"  # the harness's name of a filter that lets everything through


def measure_tasks(
    llm: EvalModel, model: EvalModel, tasks: ChosenTasks, runner: EvalRunner
) -> TaskComparison:
    """What both came to; ranks share the tasks, and a task that is finished is kept."""
    every = dict.fromkeys(leaf for leaves in tasks.leaves.values() for leaf in leaves)
    settings = (runner.batch_size, runner.seed, runner.ranks.device.type)

    def key_of(subject: EvalModel, leaf: str) -> str:
        return fingerprint("task", subject.fingerprint, *settings, *tasks.identity(leaf))

    mine = runner.ranks.share([(subject, leaf) for leaf in every for subject in (llm, model)])
    found: dict[str, Any] = {}
    runner.progress("tasks: both models", 0, len(mine))
    for done, (subject, leaf) in enumerate(mine, 1):
        key = key_of(subject, leaf)
        if key not in runner.cache:
            runner.cache.add({key: run_task(subject, leaf, tasks, runner)})
        found[key] = runner.cache[key]
        runner.progress("tasks: both models", done, len(mine))
    found = runner.ranks.together(found)
    before, after = (
        {leaf: as_result(found[key_of(subject, leaf)]) for leaf in every}
        for subject in (llm, model)
    )
    return TaskComparison(tasks.leaves, before, after, runner.seed)


def run_task(
    subject: EvalModel, leaf: str, tasks: ChosenTasks, runner: EvalRunner
) -> dict[str, Any]:
    """One task put to one model: a `TaskResult` as JSON holds it."""
    found = simple_evaluate(
        WingsLM(subject.model, tokenizer=subject.tokenizer, batch_size=runner.batch_size),
        tasks=[leaf],
        task_manager=tasks.manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples: dict[str, list[dict]] = {}
    for sample in found["samples"][leaf]:
        samples.setdefault(sample["filter"], []).append(sample)
    metrics, left_out = {}, []
    for kind, of in samples.items():
        of.sort(key=lambda sample: sample["doc_id"])
        for metric in of[0]["metrics"]:
            name = metric if kind == PLAIN else f"{metric} ({kind})"
            worth = [sample[metric] for sample in of]
            if is_mean(worth, found["results"][leaf].get(f"{metric},{kind}")):
                metrics[name] = [float(value) for value in worth]
            else:
                left_out.append(name)
    first = next(iter(samples.values()))
    drawn = random.Random(runner.seed).sample(range(len(first)), min(SAMPLES, len(first)))
    said = {str(n): shown(first[n]) for n in sorted(drawn) if says_something(first[n])}
    return {"metrics": metrics, "left_out": left_out, "said": said}


def as_result(found: Mapping[str, Any]) -> TaskResult:
    """From what JSON holds."""
    said = {int(n): tuple(texts) for n, texts in found["said"].items()}
    return TaskResult(found["metrics"], found["left_out"], said)


def is_mean(worth: list[Any], figure: Any) -> bool:
    """Whether each document has a share of 0 to 1 and the harness's own figure is their mean."""
    if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in worth):
        return False
    return isinstance(figure, (int, float)) and math.isclose(
        sum(worth) / len(worth), figure, rel_tol=1e-9, abs_tol=1e-12
    )


def says_something(sample: dict[str, Any]) -> bool:
    """Whether a text or a choice came of it, and not the likelihood of a whole text alone."""
    return isinstance(sample["resps"][0][0], (str, tuple, list))


def shown(sample: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, target and what was said: a text, or the likeliest of several."""
    arguments, target = sample["arguments"], sample["target"]
    prompt = str(arguments[0][0])
    if isinstance(sample["resps"][0][0], str):
        return prompt, str(target), sample["resps"][0][0]
    choices = [str(argument[1]).strip() for argument in arguments]
    likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
    said = choices[likelihoods.index(max(likelihoods))]
    named = isinstance(target, int) and 0 <= target < len(choices)
    return prompt, choices[target] if named else str(target), said
