"""A small plot of the router: the weight of each learner in each block, by sense."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from wings.sense import Sense

# Okabe and Ito's colours, which differ for colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
# Inches.
WIDTH, HEIGHT = 5.0, 2.6


def router_figure(weights: Mapping[str, Tensor], senses: Mapping[str, Sense]) -> Figure:
    """Bars of the weight of each learner, by block; a panel for each sense.

    Args:
        weights: by sense, `[L, M]`, of `wings.serving.answer.Answer`; one or more.
        senses: of the model, with the names of M learners and the numbers of L blocks.
    """
    # No pyplot: it keeps figures, and is not made for threads.
    figure = Figure(figsize=(WIDTH, HEIGHT * len(weights)), layout="constrained")
    panels = figure.subplots(len(weights), squeeze=False)[:, 0]
    for axes, (name, one) in zip(panels, weights.items(), strict=True):
        _draw(axes, one, senses[name])
        if len(weights) > 1:
            axes.set_title(f"{name} sense", loc="left", fontsize="medium", pad=24)
    panels[-1].set_xlabel("block")
    return figure


def _draw(axes: Axes, weights: Tensor, sense: Sense) -> None:
    learners, layers = sense.learners, sense.layers
    width = 0.8 / len(learners)
    for n, name in enumerate(learners):
        places = [block + (n - (len(learners) - 1) / 2) * width for block in range(len(layers))]
        colour = COLOURS[n % len(COLOURS)]
        axes.bar(places, weights[:, n].tolist(), width, label=f"{name} learner", color=colour)
    step = -(-len(layers) // 12)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_ylabel("mean weight")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(learners), frameon=False)
