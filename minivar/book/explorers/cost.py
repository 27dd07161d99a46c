"""What one image costs in every order, by the side of its token grid."""

import ipywidgets
from matplotlib.figure import Figure

from minivar.analysis import complexity
from minivar.book import plots
from minivar.book.explorers.base import Explorer
from minivar.book.plots.cost import order_costs

SIDES = (2, 4, 8, 16, 32, 64)


class Cost(Explorer):
    """Steps, attention pairs, FLOPs and cache of one image of n x n tokens, in each order of ``complexity.ORDERS``.

    The one value is ``n``, a power of two among ``sides``. What follows: ``costs``, order -> {"steps", "pairs",
    "small", "published", "cache"} (``plots.cost.order_costs``), and ``saved``, how many times fewer pairs next-scale
    order computes than raster order, without a cache. ``notebooks/03_raster_cost.ipynb`` and ``08_next_scale_cost``.
    """

    def __init__(self, sides: tuple[int, ...] = SIDES) -> None:
        self.sides = tuple(sides)
        super().__init__({"n": ipywidgets.SelectionSlider(options=self.sides, value=self.sides[len(sides) // 2])})

    def compute(self) -> None:
        self.costs = {order: order_costs(order, self.values["n"]) for order in complexity.ORDERS}
        self.saved = self.costs["raster"]["pairs"] / self.costs["next-scale"]["pairs"]

    def figure(self) -> Figure:
        return plots.cost_bars(self.values["n"], limits=(self.sides[0], self.sides[-1]))

    def describe(self) -> str:
        n, steps = self.values["n"], {order: found["steps"] for order, found in self.costs.items()}
        return (
            f"Explorer of cost: an image of {n} x {n} tokens takes {steps['raster']} steps in raster order and "
            f"{steps['next-scale']} by scales; without a cache the former computes {self.saved:.3g} times the pairs."
        )
