"""A picture as it forms: after every scale of a VAR, after every row of a raster model."""

from typing import NamedTuple

import torch
from torch import Tensor

from minivar.models import GPT, VAR, Generator
from minivar.sampling.next_scale import sample_scales
from minivar.sampling.raster import sample_raster
from minivar.tokenizer import VQVAE

BLANK = 0.5  # the grey of what has no tokens yet


class Stage(NamedTuple):
    """Pictures that are being drawn, at one moment."""

    images: Tensor  # (B, 3, H, W) float32 in [0, 1]
    passes: int  # through the transformer, so far
    name: str  # of what was drawn last: "scale 2 of 4", "row 3 of 7"


def check_forming(model: Generator) -> None:
    """Raise ``ValueError`` unless this model draws a picture in scales or in rows."""
    if not isinstance(model, VAR | GPT):
        kind = type(model).__name__
        raise ValueError(f"A picture forms scale by scale or row by row: expected VAR or GPT; got a {kind}.")


@torch.no_grad()
def forming(
    model: VAR | GPT, tokenizer: VQVAE, labels: Tensor, generator: torch.Generator | None = None, **settings
) -> list[Stage]:
    """Draw one image for each label, (B,), and keep all that one would have seen on the way.

    Returns a stage for each scale, or for each row of the grid, below which pictures are grey. The images of the last
    one are those that ``generate`` draws with the same generator and ``settings``. Raises ``ValueError`` for models
    that draw in another way. Source: as ``sample`` and ``sample_raster``.
    """
    check_forming(model)
    if isinstance(model, VAR):
        states = list(sample_scales(model, tokenizer.quantizer, labels, generator=generator, **settings))
        pictures = [(tokenizer.decode_features(state.f_hat_BChw).clamp(-1, 1) + 1) / 2 for state in states]
        names = [f"scale {k + 1} of {len(states)}" for k in range(len(states))]
        return [Stage(images, k + 1, name) for k, (images, name) in enumerate(zip(pictures, names, strict=True))]
    grid = model.config.grid or tokenizer.config.latent_grid or (16, 16)
    drawn = sample_raster(model, tokenizer, labels, generator=generator, grid=grid, **settings)
    codes_BCN = tokenizer.quantizer.lookup(drawn.tokens).transpose(1, 2)
    stages, (rows, columns) = [], grid
    for row in range(1, rows + 1):
        features_BCN = codes_BCN.clone()
        features_BCN[..., row * columns :] = 0
        images = (tokenizer.decode_features(features_BCN.unflatten(-1, grid)).clamp(-1, 1) + 1) / 2
        images[:, :, round(images.shape[2] * row / rows) :] = BLANK
        stages.append(Stage(images, row * columns, f"row {row} of {rows}"))
    return [*stages[:-1], stages[-1]._replace(images=drawn.images)]
