"""Choose a token, and see where it looks: on its own scale and on the coarser ones."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book import plots
from minivar.book.explorers.base import Explorer, choice, slider
from minivar.models import VAR
from minivar.tokenizer import VQVAE


class Attention(Explorer):
    """Attention weights of one token of a VAR, the mean over given images, (N, C, H, W) in [-1, 1], and labels (N,).

    Values: ``block`` (from 1), ``head`` (from 1; 0 is the mean of all), and ``scale``, ``row`` and ``column``, from 1
    as well, of the token that looks. What follows: ``weights``, K maps (h_k, w_k) that sum to 1 together, and
    ``shares`` (K,), what each scale gets of it. Scales finer than the token's are zero, by the mask. Paper: figure 4;
    ``notebooks/05_next_scale.ipynb``.
    """

    @torch.no_grad()
    def __init__(self, model: VAR, tokenizer: VQVAE, images: Tensor, labels: Tensor) -> None:
        self.schedule, record = model.schedule, []
        model(labels, tokenizer.teacher_inputs(tokenizer.encode(images)), record=record)
        self.recorded = torch.stack([weights_BHLL.mean(0) for weights_BHLL in record])  # (blocks, H, L, L)
        blocks, heads = self.recorded.shape[:2]
        scales, (rows, columns) = self.schedule.num_scales, self.schedule.final_grid
        controls = {
            "block": slider(blocks, 1, blocks),
            "head": choice([("mean", 0), *((str(i + 1), i + 1) for i in range(heads))]),
            "scale": slider(scales, 1, scales),
            "row": slider((rows + 1) // 2, 1, rows),
            "column": slider((columns + 1) // 2, 1, columns),
        }
        super().__init__(controls)

    def compute(self) -> None:
        values, bounds = self.values, self.schedule.bounds
        height, width = self.schedule.grids[values["scale"] - 1]
        self.cell = (min(values["row"], height), min(values["column"], width))
        query = bounds[values["scale"] - 1][0] + (self.cell[0] - 1) * width + self.cell[1] - 1
        weights_HL = self.recorded[values["block"] - 1, :, query]
        weights_L = weights_HL.mean(0) if values["head"] == 0 else weights_HL[values["head"] - 1]
        parts = weights_L.split(self.schedule.counts)
        self.weights = [part.view(grid) for part, grid in zip(parts, self.schedule.grids, strict=True)]
        self.shares = torch.stack([part.sum() for part in parts])

    def _title(self) -> str:
        values = self.values
        head = "mean of the heads" if values["head"] == 0 else f"head {values['head']}"
        return f"Block {values['block']}, {head}: where token {self.cell} of scale {values['scale']} looks"

    def figure(self) -> Figure:
        return plots.attention_of_token(self.weights, self.values["scale"] - 1, self.cell, self._title())

    def describe(self) -> str:
        shares = [f"{share:.0%} on scale {k + 1}" for k, share in enumerate(self.shares.tolist())]
        return f"Explorer of attention. {self._title()}: {', '.join(shares)}."
