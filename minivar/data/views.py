"""Views: more than one version of an image, and which of them an epoch shows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.data.arrays import ArraySet, Labels
from minivar.data.base import to_float, to_uint8


def jitter(
    images: Tensor, degrees: float, scale: float, shift: float, generator: torch.Generator, background: float = -1.0
) -> Tensor:
    """Rotate, resize and move each image a little: float (B, C, H, W) in [-1, 1], ``background`` outside the picture.

    Each image draws its angle from +-``degrees``, its size from 1 +- ``scale``, its shift from +-``shift`` pixels.
    """
    count, width = len(images), images.shape[-1]
    angle, size, right, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, size = angle * degrees * torch.pi / 180, 1 + size * scale
    right, down = right * 2 * shift / width, down * 2 * shift / width
    rows = torch.stack([angle.cos() * size, -angle.sin() * size, right], 1)
    columns = torch.stack([angle.sin() * size, angle.cos() * size, down], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(images.shape), align_corners=False)
    # bicubic: bilinear sampling blurs, and a model trained on blurred digits draws blurred digits
    moved = F.grid_sample(images - background, grid, mode="bicubic", align_corners=False) + background
    return moved.clamp(-1, 1)


def jittered(original: ArraySet, views: int, degrees: float = 6, scale: float = 0.06, seed: int = 0) -> ArraySet:
    """``original`` followed by ``views`` - 1 copies of it with every image slightly rotated and resized.

    With tokens that are encoded once, this is how a small dataset is augmented, as LlamaGen does with ten crops.
    Positions stay, since the digits are centred and generated ones should be.
    """
    generator = torch.Generator().manual_seed(seed)
    copies = [original.images]
    for _ in range(views - 1):
        images = jitter(to_float(original.images), degrees, scale, 0.0, generator, original.background)
        copies.append(to_uint8(images))
    extra = {name: Labels(labels.values.repeat(views), labels.names) for name, labels in original.extra.items()}
    labels = original.labels.repeat(views)
    return ArraySet(torch.cat(copies), labels, original.class_names, extra, original.background)


def mirrored(original: ArraySet) -> ArraySet:
    """``original`` followed by its mirror images: of photographs, two views of each."""
    images = torch.cat([original.images, original.images.flip(-1)])
    extra = {name: Labels(labels.values.repeat(2), labels.names) for name, labels in original.extra.items()}
    return ArraySet(images, original.labels.repeat(2), original.class_names, extra, original.background)


MIRRORED = ("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink")  # without writing


def mirrored_where_it_suits(original: ArraySet) -> ArraySet:
    """``original``, of the emoji world, followed by mirror images of what has no writing and no side in its name."""
    names, values = original.extra["name"], original.extra["name"].values
    sided = torch.tensor([bool({"left", "right", "leftwards", "rightwards"} & set(n.split())) for n in names.names])
    written = torch.tensor([not name.startswith(MIRRORED) for name in original.class_names])
    index = (~sided[values] & ~written[original.labels]).nonzero()[:, 0]
    images = torch.cat([original.images, original.images[index].flip(-1)])
    extra = {
        name: Labels(torch.cat([labels.values, labels.values[index]]), labels.names)
        for name, labels in original.extra.items()
    }
    labels = torch.cat([original.labels, original.labels[index]])
    return ArraySet(images, labels, original.class_names, extra, original.background)


def balanced(original: ArraySet, views: int) -> Tensor:
    """Which emoji to show how often, so that a training set is less lopsided: int64 (about views x N,), ascending.

    Six in ten emoji are people, most of them skin tones of the same drawing. Here the skin tones of a drawing share
    one weight, and a group weighs as much as the square root of its number of drawings.
    """
    drawing = original.extra["name"].values * len(original.extra["style"].names) + original.extra["style"].values
    _, drawing, tones = drawing.unique(return_inverse=True, return_counts=True)
    weight = 1 / tones[drawing].double()
    weight /= torch.bincount(original.labels, weights=weight)[original.labels].sqrt()
    edges = (weight.cumsum(0) / weight.sum() * len(original) * views).round().long()
    return torch.arange(len(original)).repeat_interleave(edges.diff(prepend=edges.new_zeros(1)))


def emoji_views(original: ArraySet, views: int, degrees: float = 4, scale: float = 0.05, seed: int = 0) -> ArraySet:
    """``views`` times as many emoji for training: ``balanced``, slightly turned and resized, named in three ways.

    The copies of an image take turns at being called by group, by group and style, and by subgroup and style: class
    g < 9 is group g, 9 + 2 g + s is group g in style s, 27 + 2 u + s is subgroup u in style s.
    """
    index = balanced(original, views)
    group, style, subgroup = original.labels, original.extra["style"], original.extra["subgroup"]
    names = list(original.class_names)
    for several in (original.class_names, subgroup.names):
        names += [f"{name}, {drawn}" for name in several for drawn in style.names]
    styled = len(original.class_names) + 2 * group + style.values
    finest = 3 * len(original.class_names) + 2 * subgroup.values + style.values
    choices = torch.stack([group, styled, finest])
    labels = choices[torch.arange(len(index)) % 3, index]

    generator = torch.Generator().manual_seed(seed)
    images = torch.cat(
        [
            to_uint8(jitter(to_float(original.images[part]), degrees, scale, 0.0, generator, original.background))
            for part in index.split(4096)
        ]
    )
    return ArraySet(images, labels, names, background=original.background)
