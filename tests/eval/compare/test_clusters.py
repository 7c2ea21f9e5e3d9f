"""Items that share an image or a name are resampled together."""

import itertools

import numpy as np
import pytest
from PIL import Image

from wings.eval.compare.bootstrap import Estimate, bootstrap
from wings.eval.compare.clusters import cluster_accuracy, cluster_items
from wings.eval.compare.comparison import Comparison
from wings.eval.compare.paired import PairedScores
from wings.eval.items import Item
from wings.eval.scoring.accuracy import Accuracy

ABOVE, BELOW, CLUSTERS = [3.0, -1.0, 0.0, 2.0, 5.0, 1.0], [4, 1, 2, 6, 3, 1], [2, 0, 2, 1, 1, 3]


def item(*pictures, cluster="", kind="k", answer="a"):
    parts = [*({"type": "image", "image": one} for one in pictures), {"type": "text", "text": "?"}]
    return Item(kind, ({"role": "user", "content": parts},), answer, cluster=cluster)


@pytest.mark.parametrize("below", [BELOW, None])
def test_an_interval_is_that_of_all_draws_of_clusters(below):
    below = below or [1] * len(ABOVE)
    members = [[n for n, one in enumerate(CLUSTERS) if one == c] for c in range(4)]
    ratios = []
    for chosen in itertools.product(members, repeat=4):
        units = [n for cluster in chosen for n in cluster]
        ratios.append(sum(ABOVE[n] for n in units) / sum(below[n] for n in units))
    low, high = np.quantile(ratios, [0.025, 0.975])
    found = bootstrap(ABOVE, below, draws=200_000, clusters=CLUSTERS)
    assert found.value == pytest.approx(sum(ABOVE) / sum(below))
    spread = np.std(ratios)
    assert abs(found.low - low) < 0.05 * spread and abs(found.high - high) < 0.05 * spread


def test_repeated_items_of_a_cluster_narrow_nothing():
    changes = list(np.random.default_rng(0).integers(-1, 2, size=40).astype(float))
    once = bootstrap(changes)
    assert bootstrap(np.repeat(changes, 4), clusters=np.repeat(range(40), 4)) == once
    alone = bootstrap(np.repeat(changes, 4))
    assert alone.high - alone.low < 0.7 * (once.high - once.low)
    assert bootstrap(changes, clusters=range(40)) == once


def test_one_cluster_has_no_interval():
    assert bootstrap([1, 0, 1], clusters=[5, 5, 5]) == Estimate(2 / 3, None, None)
    paired = PairedScores([1, 1, 0, 1], [0, 1, 0, 0], clusters=[0] * 4)
    assert paired.difference == Estimate(-50.0, None, None) and paired.cluster_count == 1
    before, _ = paired.accuracies
    assert (before.right, before.total) == (3, 4)
    assert before.interval == Accuracy(0.75, 1).interval
    assert paired.to_dict()["clusters"] == 1


def test_intervals_of_accuracies():
    scores = [1, 1, 0, 0, 1, 0]
    assert cluster_accuracy(scores, range(6)) == Accuracy(3, 6)
    found = cluster_accuracy(scores, [0, 0, 1, 1, 2, 2])
    assert (found.right, found.total) == (3, 6)
    assert found.interval == pytest.approx((0.0, 100.0))
    # All right: a bootstrap would claim certainty.
    assert cluster_accuracy([1] * 6, [0, 0, 1, 1, 2, 2]).interval == Accuracy(3, 3).interval


def test_shared_images_and_names_make_clusters():
    items = [
        item("a.png"), item("b.png"), item("a.png"), item(), item(),
        item("c.png", "b.png"), item("c.png"),  # by way of the one before
        item("a.png", cluster="sun"), item(cluster="sun"), item(cluster="b.png"),
    ]  # fmt: skip
    assert cluster_items(items) == [0, 1, 0, 2, 3, 1, 1, 4, 4, 5]
    one, other = (Image.new("RGB", (2, 2)) for _ in range(2))
    assert cluster_items([item(one), item(other), item(one)]) == [0, 1, 0]
    assert cluster_items([]) == []


def test_a_comparison_says_its_clusters():
    items = [item(f"{n // 4}.png", kind="xy"[n % 2]) for n in range(40)]
    after = ["a" if n // 4 < 5 else "b" for n in range(40)]
    shared = Comparison("Pictures", "Asked.", items, ["a"] * 40, after)
    assert shared.to_dict()["kinds"]["x"]["clusters"] == 10
    assert [answer["cluster"] for answer in shared.to_dict()["answers"][:5]] == [0, 0, 0, 0, 1]
    assert shared.section().sentence.endswith("resample 10 clusters of 40 questions.")
    apart = Comparison("Pictures", "Asked.", [item()] * 40, ["a"] * 40, after)
    assert apart.section().sentence == "Asked."
    narrow, wide = (one.paired("all").difference for one in (apart, shared))
    assert wide.value == narrow.value and wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert shared.same_answers("all").right == 20
