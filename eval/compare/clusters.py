"""Clusters of items: items that share an image, a sound or a name are resampled together."""

from collections.abc import Hashable, Iterator, Sequence

from wings.eval.items import Item
from wings.eval.scoring.accuracy import Accuracy
from wings.records.formats import items_of

from .bootstrap import bootstrap


def cluster_items(items: Sequence[Item]) -> list[int]:
    """The number of each item's cluster, counted from 0 in the order of the items.

    Items with the same `cluster` are in one cluster. Items without it are in one cluster if they
    share an image or sound file, directly or through other items. Any other item is a cluster of
    its own.
    """
    parents = list(range(len(items)))

    def root(n: int) -> int:
        while parents[n] != n:
            parents[n] = n = parents[parents[n]]
        return n

    first: dict[Hashable, int] = {}
    for n, item in enumerate(items):
        for shared in _shared(item):
            one, other = root(n), root(first.setdefault(shared, n))
            parents[max(one, other)] = min(one, other)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(n), len(numbers)) for n in range(len(items))]


def cluster_accuracy(scores: Sequence[float], clusters: Sequence[int], seed: int = 0) -> Accuracy:
    """The accuracy of scores from 0 to 1, with an interval that respects clusters.

    The interval is Wilson's if every answer is a cluster, else a bootstrap over clusters. Without
    any spread between clusters it is Wilson's for as many answers as there are clusters: a
    bootstrap would give an interval of no width.

    Args:
        scores: [N] of the answers.
        clusters: [N] the number of each answer's cluster.
        seed: of the bootstrap.
    """
    right, total, count = sum(scores), len(scores), len(set(clusters))
    if count == total:
        return Accuracy(right, total)
    estimate = bootstrap([100.0 * score for score in scores], seed=seed, clusters=clusters)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return Accuracy(right, total, Accuracy(right * count / total, count).interval)
    return Accuracy(right, total, (estimate.low, estimate.high))


def _shared(item: Item) -> Iterator[Hashable]:
    """The names that put items into one cluster."""
    if item.cluster:
        yield "cluster", item.cluster
        return
    for kind, source in items_of(item.messages):
        # A source in memory has no file; it is shared if it is the same object.
        yield (kind, source) if isinstance(source, str) else ("object", id(source))
