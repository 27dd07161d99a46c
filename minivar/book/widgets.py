"""The slider of chapter 08, until ``explorers.Cost`` takes its place there."""

import io

import ipywidgets
import matplotlib.pyplot as plt

from minivar.book.plots import cost_bars


def cost_slider(sides: tuple[int, ...] = (2, 4, 8, 16, 32, 64)) -> ipywidgets.VBox:
    """What one image of n x n tokens costs in every order, as ``plots.cost_bars``; the slider sets n."""
    pictures = {}
    for n in sides:
        figure, buffer = cost_bars(n, limits=(sides[0], sides[-1])), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        plt.close(figure)
        pictures[n] = buffer.getvalue()
    slider = ipywidgets.SelectionSlider(options=sides, value=sides[0], description="n")
    picture = ipywidgets.Image(value=pictures[sides[0]], format="png")
    slider.observe(lambda change: setattr(picture, "value", pictures[change["new"]]), names="value")
    return ipywidgets.VBox([slider, picture])
