"""Click a token of a picture's pyramid, make it another one, and see what that changes; beside it, a single grid."""

import ipywidgets
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from minivar.book import plots
from minivar.book.explorers.base import CHOSEN, Explorer, button_grid, check_one_image, choice, slider
from minivar.tokenizer import VQVAE

RASTER = "raster"  # the name of the single grid


class Pyramid(Explorer):
    """The tokens of one image, (1, 1 or 3, H, W) in [-1, 1], on several scales and, with ``beside``, on one grid.

    Values: ``map`` ("scale 1", ..., "raster"), ``row`` and ``column`` (from 1) choose a token, and ``code`` is what
    takes its place; choosing another token puts ``code`` at what stands there. Every change stays until ``restore``.
    What follows: ``tokens`` (name of the map -> LongTensor (1, h w)), ``pictures`` ("pyramid", "raster" ->
    (1, C, H, W) in [0, 1]), and ``moved``, the pixels that are no longer as they were, (H, W) in [0, 1], of each.

    Raises ``ValueError`` for an image that the tokenizers do not take, and for tokenizers of the wrong kinds. Paper:
    section 3.2; ``notebooks/04_token_pyramid.ipynb``.
    """

    def __init__(self, tokenizer: VQVAE, image: Tensor, beside: VQVAE | None = None) -> None:
        config = tokenizer.config
        if tokenizer.schedule is None or (beside is not None and beside.schedule is not None):
            raise ValueError("Expected a tokenizer with several scales and, beside it, one with a single grid.")
        check_one_image(image, config.nets.image_channels, config.image_size)
        self.tokenizers = {"pyramid": tokenizer} | ({RASTER: beside} if beside else {})
        self.grids = {f"scale {k + 1}": grid for k, grid in enumerate(tokenizer.schedule.grids)}
        self.given = dict(zip(self.grids, tokenizer.encode(image), strict=True))
        self.sizes = dict.fromkeys(self.grids, config.codebook_size)
        if beside:
            self.grids[RASTER], self.given[RASTER] = beside.config.latent_grid, beside.encode(image)[0]
            self.sizes[RASTER] = beside.config.codebook_size
        self.tokens = {name: tokens.clone() for name, tokens in self.given.items()}
        self.before = {side: self._decoded(side) for side in self.tokenizers}
        self.place = ("scale 1", 1, 1)
        rows, columns = (max(sides) for sides in zip(*self.grids.values(), strict=True))
        controls = {"map": choice(self.grids), "row": slider(1, 1, rows), "column": slider(1, 1, columns)}
        controls["code"] = slider(int(self.tokens["scale 1"][0, 0]), 0, max(self.sizes.values()) - 1)
        super().__init__(controls)

    def _decoded(self, side: str) -> Tensor:
        names = [RASTER] if side == RASTER else [name for name in self.grids if name != RASTER]
        return plots.to_unit(self.tokenizers[side].decode([self.tokens[name] for name in names]))

    def click(self, name: str, row: int, column: int) -> None:
        """Choose the token of a map at a row and column, from 1."""
        self.set(map=name, row=row, column=column)

    def set(self, **values: object) -> "Pyramid":
        """As every explorer's; a place and a code together choose the token first, and then change it."""
        if "code" in values and len(values) > 1:
            code = values.pop("code")
            super().set(**values)
            values = {"code": code}
        return super().set(**values)

    def restore(self) -> None:
        """All tokens as the tokenizers made them."""
        self.tokens = {name: tokens.clone() for name, tokens in self.given.items()}
        self.place = None  # whatever ``code`` says, it is not to be written
        self.refresh()

    def compute(self) -> None:
        values = self.values
        name, (rows, columns) = values["map"], self.grids[values["map"]]
        # a coarse grid has fewer rows and columns than the sliders
        place = (name, min(values["row"], rows), min(values["column"], columns))
        index = (place[1] - 1) * columns + place[2] - 1
        if place == self.place:
            self.tokens[name][0, index] = min(values["code"], self.sizes[name] - 1)
        self.place, self.index, held, self.held = place, index, self.held, True
        here = {"row": place[1], "column": place[2], "code": int(self.tokens[name][0, index])}
        for control, value in here.items():
            self.controls[control].value = value
        self.held = held
        self.pictures = {side: self._decoded(side) for side in self.tokenizers}
        self.moved = {side: (self.pictures[side] - self.before[side])[0].abs().mean(0) for side in self.tokenizers}

    def figure(self) -> Figure:
        name, row, column = self.place
        was, now = int(self.given[name][0, self.index]), int(self.tokens[name][0, self.index])
        what = f"Token ({row}, {column}) of {'the raster grid' if name == RASTER else name}: "
        what += f"{was}, as it was" if was == now else f"{now} in place of {was}"
        return plots.changed_tokens(self.before, self.pictures, self.moved, what)

    def describe(self) -> str:
        name, row, column = self.place
        changed = sum(int((self.tokens[n] != self.given[n]).sum()) for n in self.tokens)
        parts = [f"{side}: {float((moved > 0.05).float().mean()):.0%}" for side, moved in self.moved.items()]
        return (
            f"Explorer of a pyramid: token ({row}, {column}) of {name} is chosen, {changed} tokens are changed, and "
            f"the share of pixels that moved by more than a twentieth is, {', '.join(parts)}."
        )

    def boards(self) -> list:
        self.buttons, boards = {}, []
        for name, grid in self.grids.items():
            title = f"{name}: {grid[0]} x {grid[1]}"
            board, self.buttons[name] = button_grid(grid, lambda i, j, n=name: self.click(n, i + 1, j + 1), 38, title)
            boards.append(board)
        again = ipywidgets.Button(description="restore")
        again.on_click(lambda _: self.restore())
        return [*boards, again]

    def dress(self) -> None:
        shown = colormaps["cividis"]
        for name, buttons in self.buttons.items():
            for i, button in enumerate(buttons):
                token = int(self.tokens[name][0, i])
                chosen = name == self.place[0] and i == self.index
                button.description = str(token)
                button.style.button_color = CHOSEN if chosen else to_hex(shown(token / self.sizes[name]))
                button.style.text_color = "black" if chosen or token > self.sizes[name] / 2 else "white"
