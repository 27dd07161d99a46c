"""A judge that has learnt without labels: which two pictures show the same (SimCLR, arXiv 2002.05709).

Two views are made of every picture, and the network learns to find, among all views of a batch, the other one of the
same picture. Of a digit the views are turned, resized and moved a little; of a thing among the emoji they are drawn
by two designers, so that what stays is the thing. Built by ``experiments/build_judges.py``. Explained in
``notebooks/09_judging.ipynb``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check


@dataclass(frozen=True)
class ContrastConfig:
    """Shape of the network. Defaults: for the digits."""

    channels: int = 1
    image_size: int = 28
    patch: int = 1  # side of the squares of pixels that become one place, before the first convolution
    width: int = 16
    features: int = 64  # F
    projection: int = 64  # P, what the loss compares; thrown away afterwards

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("channels", "patch", "width", "features", "projection"), "[1, 1e6]")
        check(self, image_size="[4, 65536]", **ranges)


def convolutions(channels: int, width: int) -> nn.Sequential:
    """Three stages of two 3x3 convolutions, each half the size and twice the width of the last -> (B, 16 width)."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
        layers += [nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(2), nn.Flatten())


class ContrastJudge(nn.Module):
    """Images -> features; and for the loss a projection of them onto the unit sphere."""

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Sequential(
            nn.PixelUnshuffle(config.patch), convolutions(config.channels * config.patch**2, config.width)
        )
        self.project = nn.Linear(16 * config.width, config.features)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(config.features, config.projection))

    def features(self, images: Tensor) -> Tensor:
        """(B, C, s, s) in [-1, 1] -> (B, F)."""
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"This judge expects images (B, {str(expected)[1:]}; got {tuple(images.shape)}.")
        return self.project(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, s, s) in [-1, 1] -> (B, P), of length 1."""
        return F.normalize(self.head(self.features(images)), dim=-1)


def contrast_loss(first_BP: Tensor, second_BP: Tensor, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of finding a view's other one among the 2 B - 1 others of the batch, by cosine (equation 1).

    ``first_BP`` and ``second_BP`` are of length 1; row i of both shows the same.
    """
    both_NP = torch.cat([first_BP, second_BP])
    count = len(first_BP)
    cosine_NN = both_NP @ both_NP.T / temperature
    cosine_NN = cosine_NN.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=both_NP.device), -torch.inf)
    other_N = torch.arange(2 * count, device=both_NP.device).roll(count)
    return F.cross_entropy(cosine_NN, other_N)


def layout(images: Tensor) -> Tensor:
    """Colour and shape in statistics that nobody learnt: (N, C, H, W) in [-1, 1] -> (N, 16 C + 32).

    Mean colours of 4 x 4 parts, and how much brightness changes in each, across and down.
    """
    grey = images.mean(1, keepdim=True)
    across, down = (F.pad(grey.diff(dim=d).abs(), pad) for d, pad in ((3, (0, 1)), (2, (0, 0, 0, 1))))
    parts = [F.adaptive_avg_pool2d(x, 4).flatten(1) for x in (images, across, down)]
    return torch.cat(parts, dim=1)


def retrieval(features_NF: Tensor, things_N: Tensor, styles_N: Tensor) -> tuple[float, float]:
    """How often the nearest drawing in another style shows the same thing, and how often it would by chance.

    Averaged over all drawings and, of each, over the other styles that have drawn its thing; the nearest by cosine of
    what is left of the features without their mean and with each of them scaled to deviation 1.
    """
    scaled_NF = F.normalize((features_NF - features_NF.mean(0)) / (features_NF.std(0) + 1e-6), dim=-1)
    hits, chances = [], []
    for own in styles_N.unique():
        for other in styles_N.unique():
            if own == other:
                continue
            queries, gallery = (styles_N == own).nonzero()[:, 0], (styles_N == other).nonzero()[:, 0]
            queries = queries[torch.isin(things_N[queries], things_N[gallery])]
            nearest = (scaled_NF[queries] @ scaled_NF[gallery].T).argmax(1)
            hits.append(things_N[gallery][nearest] == things_N[queries])
            chances.append(torch.full((len(queries),), 1 / len(gallery)))
    return torch.cat(hits).float().mean().item(), torch.cat(chances).mean().item()
