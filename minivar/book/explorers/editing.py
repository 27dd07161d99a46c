"""Mark a part of a picture, cell by cell or with a brush, and have it drawn anew."""

import math
from collections.abc import Sequence

import ipywidgets
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from minivar import data, sampling
from minivar.book import plots
from minivar.book.explorers.base import CHOSEN, Explorer, button_grid, check_one_image, choice, class_options, slider
from minivar.models import VAR, Generator
from minivar.tokenizer import VQVAE

GREYS = 17  # that the buttons have


class Editing(Explorer):
    """One picture, (1, 1 or 3, H, W) in [-1, 1], with a hole that a model fills in ``samples`` ways.

    The hole is drawn on the picture, which lies under ``side`` x ``side`` buttons: ``toggle(row, column)`` (from 1)
    is a click, ``stroke(points)`` a brush from point to point, ``clear()`` begins anew. Values: ``label`` (-1: of no
    class), ``seed``, ``cfg``, ``feather`` and ``passes`` as in ``sampling.inpaint``. What follows: ``hole``, bool
    (side, side), ``keep``, bool (H, W), True where the picture stays, and ``pictures`` (samples, C, H, W) in [0, 1];
    without a hole, or with nothing else, they are the given one. ``model``: VAR, GPT or MaskGIT.

    Raises ``ValueError`` for images and models that do not fit. ``notebooks/10_editing.ipynb``.
    """

    def __init__(
        self,
        model: Generator,
        tokenizer: VQVAE,
        image: Tensor,
        samples: int = 4,
        side: int = 14,
        names: Sequence[str] | None = None,
        **settings,
    ) -> None:
        size = tuple(image.shape[-2:])
        sampling.check_editable(model)
        check_one_image(image, tokenizer.config.nets.image_channels, tokenizer.config.image_size or size)
        if not 1 <= side <= min(size):
            raise ValueError(f"A board of buttons has 1 to {min(size)} a side for this image; got {side}.")
        self.model, self.tokenizer, self.image, self.samples = model, tokenizer, image, samples
        self.hole = torch.zeros(side, side, dtype=torch.bool)
        # the pixel in row i belongs to the row of buttons i side // H
        self.row_H, self.column_W = (torch.arange(pixels) * side // pixels for pixels in size)
        none = 0.0 if isinstance(model, VAR) else 1.0  # no guidance, in the words of the model's sampler
        classes = [("no class", -1), *class_options(model.config.num_classes, names)]
        start = {"label": -1, "seed": 0, "cfg": none, "feather": 1, "passes": 2, **settings}
        controls = {
            "label": choice(classes, start["label"]),
            "seed": slider(start["seed"], 0, 999),
            "cfg": slider(start["cfg"], none, 8, 0.25),
            "feather": slider(start["feather"], 0, 4),
            "passes": slider(start["passes"], 1, 4),
        }
        super().__init__(controls)

    def toggle(self, row: int, column: int) -> None:
        """Take one cell of the board, counted from 1, into the hole, or out of it."""
        side = len(self.hole)
        if not (1 <= row <= side and 1 <= column <= side):
            raise ValueError(f"The board has rows and columns 1 to {side}; got ({row}, {column}).")
        self.hole[row - 1, column - 1] ^= True
        self.refresh()

    def stroke(self, points: Sequence[tuple[float, float]], radius: float = 2.0) -> None:
        """Take into the hole whatever a round brush touches, from point to point, (row, column) in pixels."""
        touched = ~data.brush_mask(tuple(self.image.shape[-2:]), points, radius)
        for i, j in touched.nonzero().tolist():
            self.hole[self.row_H[i], self.column_W[j]] = True
        self.refresh()

    def clear(self) -> None:
        """No hole."""
        self.hole[:] = False
        self.refresh()

    def compute(self) -> None:
        values = self.values
        self.keep = ~self.hole[self.row_H][:, self.column_W]
        given = self.image.expand(self.samples, -1, -1, -1)
        self.pictures = plots.to_unit(given)
        if self.keep.all() or not self.keep.any():
            return
        label = self.model.config.num_classes if values["label"] < 0 else values["label"]
        how = {name: values[name] for name in ("cfg", "feather", "passes")}
        how["generator"] = torch.Generator().manual_seed(values["seed"])
        labels = torch.full((self.samples,), label)
        self.pictures = sampling.inpaint(self.model, self.tokenizer, given, labels, self.keep, **how).images

    def figure(self) -> Figure:
        asked = "of no class" if self.values["label"] < 0 else f"asked to be class {self.values['label']}"
        if self.keep.all():
            title = "Click the cells that are to be drawn anew"
        elif not self.keep.any():
            title = "Nothing is left that could stay: give some of it back"
        else:
            title = f"{int((~self.keep).sum())} pixels drawn anew, {asked}"
        return plots.redrawn(plots.to_unit(self.image)[0], self.keep, self.pictures, title)

    def describe(self) -> str:
        share = float((~self.keep).float().mean())
        return f"Explorer of editing: a picture, a hole of {share:.0%} of it, and {self.samples} ways to fill that."

    def boards(self) -> list:
        side = len(self.hole)
        click, pixels = lambda i, j: self.toggle(i + 1, j + 1), max(12, math.ceil(224 / side))
        board, self.buttons = button_grid((side, side), click, pixels, "click what is to be drawn anew")
        again = ipywidgets.Button(description="clear")
        again.on_click(lambda _: self.clear())
        # few styles, which many buttons share: a front end is told of each
        greys = ["#" + 3 * f"{round(255 * i / (GREYS - 1)):02x}" for i in range(GREYS)]
        self.styles = [ipywidgets.ButtonStyle(button_color=colour) for colour in (*greys, CHOSEN)]
        light = F.adaptive_avg_pool2d(plots.to_unit(self.image).mean(1), (side, side))
        self.shades = (light * (GREYS - 1)).round().long().flatten().tolist()
        return [board, again]

    def dress(self) -> None:
        for button, shade, taken in zip(self.buttons, self.shades, self.hole.flatten().tolist(), strict=True):
            style = self.styles[-1 if taken else shade]
            if button.style is not style:
                button.style = style
