"""The plot of paired scores."""

from wings.eval.compare.paired import PairedScores, paired_plot


def test_names_of_kinds_are_not_cut_off():
    names = ["all", "spatial_relationship, circular", "structuralized_imagetext_understanding"]
    scores = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    figure = paired_plot(dict.fromkeys(names, PairedScores(scores, scores[::-1])))
    figure.canvas.draw()
    left, right = figure.axes
    for label in left.get_yticklabels():
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.x1 < left.get_window_extent().x0, label.get_text()
    assert right.get_window_extent().width > 50


def test_a_dollar_in_a_name_is_a_letter():
    figure = paired_plot({"price $a^b$ \\x$": PairedScores([1, 0], [0, 1])})
    figure.canvas.draw()
    assert figure.axes[0].get_yticklabels()[0].get_text() == "price $a^b$ \\x$"
