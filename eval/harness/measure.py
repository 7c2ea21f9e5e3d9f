"""Runs tasks of lm-evaluation-harness on both models, task by task."""

import math
import random
from typing import Any

from wings.eval.fingerprint import fingerprint
from wings.eval.models import EvalModel
from wings.eval.report.report import SAMPLES
from wings.eval.runner import EvalRunner
from wings.upstream.harness import simple_evaluate

from .comparison import TaskComparison, TaskResult
from .model import WingsLM
from .tasks import ChosenTasks

PLAIN = "none"  # the harness's name of the filter that does nothing


def measure_tasks(
    llm: EvalModel, model: EvalModel, tasks: ChosenTasks, runner: EvalRunner
) -> TaskComparison:
    """Both models' results; processes share the tasks, and a finished task is cached."""
    every = dict.fromkeys(leaf for leaves in tasks.leaves.values() for leaf in leaves)
    settings = (runner.batch_size, runner.seed, runner.processes.device.type)

    def key_of(one: EvalModel, leaf: str) -> str:
        return fingerprint("task", one.fingerprint, *settings, *tasks.identity(leaf))

    runs = {key_of(one, leaf): (one, leaf) for leaf in every for one in (llm, model)}
    results = runner.compute(
        "tasks: both models",
        [[key] for key in runs],
        lambda batch: {key: run_task(*runs[key], tasks, runner) for key in batch},
    )
    before, after = (
        {leaf: _from_json(results[key_of(one, leaf)]) for leaf in every} for one in (llm, model)
    )
    return TaskComparison(tasks.leaves, before, after, runner.seed)


def run_task(model: EvalModel, leaf: str, tasks: ChosenTasks, runner: EvalRunner) -> dict[str, Any]:
    """Runs one task on one model; returns a `TaskResult` as JSON values."""
    output = simple_evaluate(
        WingsLM(model.model, tokenizer=model.tokenizer, batch_size=runner.batch_size),
        tasks=[leaf],
        task_manager=tasks.manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    by_filter: dict[str, list[dict]] = {}
    for sample in output["samples"][leaf]:
        by_filter.setdefault(sample["filter"], []).append(sample)
    metrics, left_out = {}, []
    for kind, samples in by_filter.items():
        samples.sort(key=lambda sample: sample["doc_id"])
        for metric in samples[0]["metrics"]:
            name = metric if kind == PLAIN else f"{metric} ({kind})"
            scores = [sample[metric] for sample in samples]
            if is_mean(scores, output["results"][leaf].get(f"{metric},{kind}")):
                metrics[name] = [float(score) for score in scores]
            else:
                left_out.append(name)
    first = next(iter(by_filter.values()))
    drawn = random.Random(runner.seed).sample(range(len(first)), min(SAMPLES, len(first)))
    texts = {str(n): _texts(first[n]) for n in sorted(drawn) if _has_answer(first[n])}
    return {"metrics": metrics, "left_out": left_out, "samples": texts}


def _from_json(values: dict[str, Any]) -> TaskResult:
    samples = {int(n): tuple(texts) for n, texts in values["samples"].items()}
    return TaskResult(values["metrics"], values["left_out"], samples)


def is_mean(scores: list[Any], reported: Any) -> bool:
    """True if all scores are in 0 to 1 and the harness's own figure is their mean."""
    if not all(isinstance(score, (int, float)) and 0 <= score <= 1 for score in scores):
        return False
    return isinstance(reported, (int, float)) and math.isclose(
        sum(scores) / len(scores), reported, rel_tol=1e-9, abs_tol=1e-12
    )


def _has_answer(sample: dict[str, Any]) -> bool:
    """True for a generated text or a choice; False for the likelihood of a whole text."""
    return isinstance(sample["resps"][0][0], (str, tuple, list))


def _texts(sample: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, target and prediction: a generated text, or the likeliest of several."""
    arguments, target = sample["arguments"], sample["target"]
    prompt = str(arguments[0][0])
    if isinstance(sample["resps"][0][0], str):
        return prompt, str(target), sample["resps"][0][0]
    choices = [str(argument[1]).strip() for argument in arguments]
    likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
    prediction = choices[likelihoods.index(max(likelihoods))]
    is_index = isinstance(target, int) and 0 <= target < len(choices)
    return prompt, choices[target] if is_index else str(target), prediction
