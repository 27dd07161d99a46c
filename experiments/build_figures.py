"""Draw the pictures in data/figures: scale_by_scale.png, arc.png and emoji_samples.png, for README.md, with the
shipped checkpoints; system.png, also for README.md; emoji.png and emoji_world.png, of the data cards.

python experiments/build_figures.py [scale_by_scale] [arc] [system] [emoji] [emoji_world] [emoji_samples]
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
    shrink(path)


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


def arc() -> None:
    """The book in six panels."""
    figure = plots.arc(story())
    figure.savefig(FIGURES / "arc.png", dpi=200, pil_kwargs={"optimize": True})


def story(seed: int = 0) -> plots.Story:
    """What the panels of ``arc`` show, by the two shipped models of chapter 08, both over a 7 x 7 grid of tokens.

    They draw the ten digits, each at the guidance at which its Frechet ratio is best; three of these are shown, the
    same of both. Real digits are the first of their class in the held-out part.
    """
    raster_tokenizer, gpt, _ = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / "duel-llamagen")
    tokenizer, var, _ = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / "duel-var")
    images, labels = data.load("digits", "heldout").batch(slice(None))
    first = torch.stack([images[labels == digit][0] for digit in range(10)])
    one, shown, grid = first[2:3], [5, 7, 9], tokenizer.schedule.grids[-1]

    def generator(more: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(seed + more)

    rows = sampling.forming(gpt, raster_tokenizer, torch.arange(10), generator(), cfg=2.0)
    scales = sampling.forming(var, tokenizer, torch.arange(10), generator(), cfg=0.5)
    with torch.no_grad():
        pyramid = tokenizer.encode(one)
        nothing = tokenizer.decode_features(torch.zeros(1, tokenizer.config.code_dim, *grid))
        sums = [plots.to_unit(x)[0] for x in (nothing, *tokenizer.decode_pyramid(pyramid))]
        tokens = raster_tokenizer.encode(one)[0]
    holes = {0: (0, 0, 14, 28), 3: (0, 0, 28, 14), 9: (0, 14, 28, 14)}  # top, left, height, width
    keep = {digit: data.box_mask((28, 28), *hole) for digit, hole in holes.items()}

    def fill(digit: int, more: int) -> torch.Tensor:
        how = {"feather": 1, "cfg": 1.0, "generator": generator(more)}
        label = torch.tensor([digit])
        return sampling.inpaint(var, tokenizer, first[label], label, keep[digit], **how).images

    return plots.Story(
        image=plots.to_unit(one[0]),
        grid=tokens.view(grid),
        codebook_size=raster_tokenizer.config.codebook_size,
        rows={done: rows[done - 1].images[shown] for done in (1, 3, 5, 7)},
        scales=[stage.images[shown] for stage in scales],
        schedule=tokenizer.schedule,
        pyramid=[tokens_1l[0] for tokens_1l in pyramid],
        sums=sums,
        given=plots.to_unit(first[list(holes)]),
        keep=list(keep.values()),
        filled=[torch.cat([fill(digit, way) for digit in holes]) for way in (0, 1)],
    )


def system() -> None:
    """The picture of the system, as chapter 00 has it, with larger letters."""
    figure = plots.system(("image", "tokens", "transformer", "samples"), simple=True)
    for text in figure.axes[0].texts:
        text.set_fontsize(1.25 * text.get_fontsize())
    figure.savefig(FIGURES / "system.png", dpi=160, bbox_inches="tight")
    shrink(FIGURES / "system.png")


def shrink(path: Path) -> None:
    """Write a PNG again with at most 256 colours, which is enough for these."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    drawings = {
        "arc": arc,
        "system": system,
        "scale_by_scale": scale_by_scale,
        "emoji": emoji,
        "emoji_world": emoji_world,
        "emoji_samples": emoji_samples,
    }
    for name in sys.argv[1:] or drawings:
        drawings[name]()


if __name__ == "__main__":
    main()
