"""A small plot of the router: the weight of each learner in each block."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's colours, which differ for colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def router_figure(weights: Tensor, learners: Sequence[str], layers: Sequence[int]) -> Figure:
    """Bars of the weight of each learner, by block.

    Args:
        weights: `[L, M]`, of `wings.serving.answer.Answer`.
        learners: M names.
        layers: L numbers of blocks, counted from 0.
    """
    # No pyplot: it keeps figures, and is not made for threads.
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(learners)
    for n, name in enumerate(learners):
        places = [block + (n - (len(learners) - 1) / 2) * width for block in range(len(layers))]
        colour = COLOURS[n % len(COLOURS)]
        axes.bar(places, weights[:, n].tolist(), width, label=f"{name} learner", color=colour)
    step = -(-len(layers) // 12)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_xlabel("block")
    axes.set_ylabel("mean weight")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=len(learners), frameon=False)
    return figure
