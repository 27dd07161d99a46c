"""Draw the pictures in data/figures: scale_by_scale.png and emoji_samples.png, at the top of README.md, with the
shipped checkpoints, and emoji.png and emoji_world.png, of the data cards.

python experiments/build_figures.py [scale_by_scale] [emoji] [emoji_world] [emoji_samples]
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torchvision.utils import make_grid

from minivar import checkpoints, data, sampling
from minivar.book import plots

FIGURES = data.DATA_ROOT / "figures"


def scale_by_scale() -> None:
    """Ten digits of the shipped model, one row a scale."""
    tokenizer, model, header = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / "digits")
    settings = {**header["sampling"], "generator": torch.Generator().manual_seed(3)}
    states = sampling.sample_scales(model, tokenizer.quantizer, torch.arange(10), **settings)
    rows = [plots.to_unit(x) for x in tokenizer.decode_pyramid([state.tokens_Bl for state in states])]
    names = [f"{h} x {w}" for h, w in tokenizer.schedule.grids]
    figure = plots.image_grid(plots.stack_rows(rows), "", columns=10, row_titles=names)
    plots.save_figure(figure, FIGURES / "scale_by_scale.png")


def labelled_rows(images: torch.Tensor, names: Sequence[str], rows_each: int, path: Path, zoom: int = 2) -> None:
    """Write uint8 images (N, 3, H, W), row by row, each ``rows_each`` rows under a name, without resampling."""
    columns = len(images) // (len(names) * rows_each)
    tiles = make_grid(images, nrow=columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
    height, width = tiles.shape[0] * zoom, tiles.shape[1] * zoom
    figure = plt.figure(figsize=((width + 170) / 100, height / 100), dpi=100)
    axes = figure.add_axes((170 / (width + 170), 0, width / (width + 170), 1))
    axes.imshow(tiles, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_xticks([])
    step = height / len(names)
    axes.set_yticks([(group + 0.5) * step for group in range(len(names))], names, fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def emoji(columns: int = 18) -> None:
    """Some emoji of each group, Noto's drawing above Twemoji's."""
    found = data.load("emoji", "train+validation")
    styles, names = found.extra["style"].values, found.extra["name"].values
    plain = [re.search("1F3F[B-F]", code) is None for code in found.extra["unified"].names]
    plain = torch.tensor(plain)[found.extra["unified"].values]
    images = []
    for group in range(len(found.class_names)):
        chosen = [((found.labels == group) & plain & (styles == style)).nonzero().flatten() for style in (0, 1)]
        noto, twemoji = ({int(names[i]): found.images[i] for i in index} for index in chosen)
        shown = [name for name in noto if name in twemoji][:columns]
        images += [drawn[name] for drawn in (noto, twemoji) for name in shown]
    labelled_rows(torch.stack(images), found.class_names, 2, FIGURES / "emoji.png")


def emoji_world(columns: int = 16) -> None:
    """Things that all eight styles have drawn, a row a style: evenly spread over the order of the training part."""
    found = data.load("emoji-64", "train")
    styles, things = found.extra["style"], found.extra["thing"].values
    drawn = {(int(styles.values[i]), int(things[i])): found.images[i] for i in range(len(found))}
    everywhere = [t for t in range(len(found.extra["thing"].names)) if all((s, t) in drawn for s in range(8))]
    shown = [everywhere[i * len(everywhere) // columns] for i in range(columns)]
    images = [drawn[style, thing] for style in range(8) for thing in shown]
    labelled_rows(torch.stack(images), styles.names, 1, FIGURES / "emoji_world.png", zoom=1)


def emoji_samples(columns: int = 18) -> None:
    """Samples of the shipped colour model, one row a group: the first ones of seed 0."""
    tokenizer, model, header = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / "emoji")
    names = data.load("emoji", "heldout").class_names
    labels = torch.arange(len(names)).repeat_interleave(columns)
    drawn = sampling.sample(
        model, tokenizer, labels, generator=torch.Generator().manual_seed(0), **header["sampling"]
    )
    labelled_rows(data.to_uint8(drawn.images * 2 - 1), names, 1, FIGURES / "emoji_samples.png")


def main() -> None:
    drawings = {
        "scale_by_scale": scale_by_scale,
        "emoji": emoji,
        "emoji_world": emoji_world,
        "emoji_samples": emoji_samples,
    }
    for name in sys.argv[1:] or drawings:
        drawings[name]()


if __name__ == "__main__":
    main()
