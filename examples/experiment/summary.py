"""Summaries of cells over questions and seeds, and paired differences between cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from wings.eval.compare.bootstrap import LEVELS, Estimate

from .measure import TESTS
from .runs import RunResult

DRAWS = 5_000
Clusters = Mapping[str, Sequence[str]]  # kind -> cluster of each item


class Scored(Protocol):
    """A model of one seed with its scores.

    Attributes:
        seed: of its trainings.
        record: has `scores` {test: {kind: [0 or 1]}}, unless it failed.
        failed: True for a training that ended without a model.
    """

    @property
    def seed(self) -> int: ...

    @property
    def record(self) -> Mapping[str, Any]: ...

    @property
    def failed(self) -> bool: ...


@lru_cache(maxsize=8)
def draws(units: int, seed: int) -> np.ndarray:
    """Counts of each of `units` units in each resample: [DRAWS, units] float64."""
    shares = np.full(units, 1 / units)
    return np.random.default_rng(seed).multinomial(units, shares, size=DRAWS).astype(float)


def estimate(above: np.ndarray, below: np.ndarray) -> Estimate:
    """All of `above` over all of `below`, with a 95% interval over clusters and seeds.

    A draw resamples clusters and seeds with replacement. With one seed, only clusters.

    Args:
        above: [S, C] sum of each seed and cluster.
        below: [S, C] what the sums are counted in, or [C] if it is the same for every seed. Its sum
            is not 0.
    """
    seeds, clusters = above.shape
    below = np.broadcast_to(below, above.shape)
    drawn, weights = draws(clusters, 0), draws(seeds, 1)
    tops, bottoms = (((drawn @ sums.T) * weights).sum(1) for sums in (above, below))
    # A draw without anything to count in has no ratio, and is left out.
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(tops / bottoms, LEVELS)
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def cluster_sums(scores: Mapping[str, Sequence[float]], clusters: Clusters) -> np.ndarray:
    """The sum of scores of every cluster: [C] float64, clusters in sorted order."""
    names = [name for kind in scores for name in clusters[kind]]
    values = [value for kind in scores for value in scores[kind]]
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, weights=np.asarray(values, dtype=float))


@dataclass(frozen=True)
class CellSummary:
    """The runs of one cell; a run without a model counts as 0 everywhere.

    Attributes:
        tests: percent of each test; text and mixed in percent of the LLM's right answers.
        same: percent of answers after a picture that are the LLM's after the words of the exchange.
        kl: KL(LLM || model) in nats a token, "alone" and "mixed"; over runs with a model.
        kinds: percent by test and kind, mean over seeds.
        seeds: "pictures", "mixed" (as in `tests`) and KL "mixed" of every seed.
        trained: weights that stage 2 trains, by group.
        seconds: of one core, both stages, mean over seeds.
        memory: peak MiB of the training of both stages, the largest of all seeds.
    """

    tests: dict[str, Estimate]
    same: Estimate
    kl: dict[str, Estimate]
    kinds: dict[str, dict[str, float]]
    seeds: dict[int, tuple[float, float, float]]
    trained: dict[str, int]
    seconds: float
    memory: int


def summarize(runs: Sequence[RunResult], llm: Mapping[str, Any]) -> CellSummary | None:
    """Summarizes the runs of one cell; None where none has a model.

    Args:
        runs: of one cell on the test part, one a seed.
        llm: the content of `llm.json`.
    """
    records = [run.record for run in runs if not run.failed]
    if not records:
        return None
    tests = [test for test in TESTS if all(test in record["scores"] for record in records)]
    mixed = llm["clusters"]["test"]["mixed"]
    same = np.stack([cluster_sums(_same(run, records), mixed) for run in runs])
    counts = cluster_sums(_ones(records[0]["same"]), mixed)
    stages = [[record[stage] for stage in ("stage_1", "stage_2")] for record in records]
    return CellSummary(
        tests={test: percent_of(right_sums(runs, test, llm), test, llm) for test in tests},
        same=estimate(100 * same, counts),
        kl={name: kl_estimate([record["kl"] for record in records], name)
            for name in ("alone", "mixed")},
        kinds={
            test: {
                kind: 100 * sum(np.mean(record["scores"][test][kind]) for record in records)
                / len(runs)
                for kind in records[0]["scores"][test]
            }
            for test in tests
        },
        seeds={run.seed: _of_seed(run, llm) for run in runs},
        trained=records[0]["trained"],
        seconds=float(np.mean([sum(s["cpu_seconds"] for s in two) for two in stages])),
        memory=max(stage["memory_mib"] for two in stages for stage in two),
    )  # fmt: skip


def _same(run: RunResult, records: Sequence[Mapping]) -> Mapping[str, Sequence[int]]:
    if not run.failed:
        return run.record["same"]
    return {kind: [0] * len(values) for kind, values in records[0]["same"].items()}


def _ones(scores: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    return {kind: [1] * len(values) for kind, values in scores.items()}


def right_sums(runs: Sequence[Scored], test: str, llm: Mapping[str, Any]) -> np.ndarray:
    """Right answers of each run and cluster, [S, C]; a run without a model has none."""
    clusters = llm["clusters"]["test"][test]
    scores = [run.record["scores"][test] for run in runs if not run.failed]
    rows = [
        np.zeros_like(cluster_sums(scores[0], clusters))
        if run.failed
        else cluster_sums(run.record["scores"][test], clusters)
        for run in runs
    ]
    return np.stack(rows)


def percent_of(sums: np.ndarray, test: str, llm: Mapping[str, Any]) -> Estimate:
    """Right answers in percent of the items, or of the LLM's right answers to text."""
    clusters = llm["clusters"]["test"][test]
    known = llm["test"]["scores"].get(test)
    counted = _ones(clusters) if known is None else known
    return estimate(100 * sums, cluster_sums(counted, {kind: clusters[kind] for kind in counted}))


def difference(
    ours: Sequence[Scored], theirs: Sequence[Scored], test: str, llm: Mapping[str, Any]
) -> Estimate | None:
    """The paired difference of two cells in the seeds that both have; None where they share none.

    In points of all items; for text in points of the LLM's right answers.
    """
    of = {run.seed: run for run in theirs if not run.failed}
    pairs = [(run, of[run.seed]) for run in ours if run.seed in of and not run.failed]
    if not pairs:
        return None
    sums = [right_sums(side, test, llm) for side in zip(*pairs, strict=True)]
    return percent_of(sums[0] - sums[1], test, llm)


def kl_estimate(kls: Sequence[Mapping[str, Sequence[float]]], name: str) -> Estimate:
    """Nats a token, with an interval over conversations and seeds."""
    above = np.array([kl[name] for kl in kls], dtype=float)
    return estimate(above, np.asarray(kls[0]["tokens"], dtype=float))


def _of_seed(run: RunResult, llm: Mapping[str, Any]) -> tuple[float, float, float]:
    if run.failed:
        return 0.0, 0.0, float("nan")
    values = [percent_of(right_sums([run], test, llm), test, llm).value
              for test in ("pictures", "mixed")]  # fmt: skip
    return values[0], values[1], kl_estimate([run.record["kl"]], "mixed").value
