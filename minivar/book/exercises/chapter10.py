"""Exercises of chapter 10: masks of scales and of cells, the loop that keeps what is given, and compositing."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# The mask of a scale ----------------------------------------------------------------------------------------------


def mask_of_scale(keep, grid):
    """Mask (h_K, w_K), 1 where the picture stays -> bool (h_k, w_k) of a coarser grid."""
    if grid == (1, 1):
        return torch.ones(1, 1, dtype=torch.bool)
    resized = F.interpolate(keep[None, None].float(), size=grid, mode="bilinear")
    return resized[0, 0] > 0.5


def _mask(keep, grid, first=True, mode="bilinear", at_half=False, inverse=False) -> Tensor:
    if grid == (1, 1) and first:
        return torch.ones(1, 1, dtype=torch.bool)
    resized = F.interpolate(keep[None, None].float(), size=grid, mode=mode)[0, 0]
    found = resized >= 0.5 if at_half else resized > 0.5
    return ~found if inverse else found


def _ask_grid(rows: list[str], *grid: int):
    keep = torch.tensor([[int(cell) for cell in row] for row in rows])
    return lambda function: function(keep.clone(), grid).bool()


HALF = ["1111", "1111", "0000", "0000"]
CORNER = ["1110", "1110", "1110", "0000"]

MASK_OF_SCALE = Exercise(
    mask_of_scale,
    title="The mask of a scale",
    stars=1,
    minutes=8,
    way_in="F.interpolate(..., mode='bilinear'), then > 0.5",
    hint="`F.interpolate` wants batch and channels: `keep[None, None].float()`.",
    cases=(
        ("the upper half, on 2 x 2", _ask_grid(HALF, 2, 2)),
        ("a corner that is half kept", _ask_grid(CORNER, 2, 2)),
        ("the finest scale itself", _ask_grid(CORNER, 4, 4)),
        ("3 x 3 cells", _ask_grid(CORNER, 3, 3)),
        ("the first scale, of a picture of which little stays", _ask_grid(["1000", "0000", "0000", "0000"], 1, 1)),
    ),
    mistakes=(
        ("The first scale is always kept: it has the tone of the whole picture.", partial(_mask, first=False)),
        ("Cells are chosen, not mixed: nearest in place of bilinear.", partial(_mask, mode="nearest")),
        ("A cell that is exactly half kept is drawn: the threshold is above one half.", partial(_mask, at_half=True)),
        ("1 means that the picture stays.", partial(_mask, inverse=True)),
    ),
)

# The loop ---------------------------------------------------------------------------------------------------------


def edited(draw, contribution, given, masks):
    """f_hat of an edited picture: at each scale codes are drawn, and those that are given take their places."""
    f_hat = 0.0
    for k in range(len(given)):
        codes = torch.where(masks[k][..., None], given[k], draw(k, f_hat))
        f_hat = f_hat + contribution(codes, k)
    return f_hat


def _edited(draw, contribution, given, masks, swapped=False, blind=False, late=False, whole=False) -> Tensor:
    f_hat, shown = 0.0, 0.0
    for k in range(len(given)):
        drawn = draw(k, shown if late else f_hat)
        kept = drawn if blind else torch.where(masks[k][..., None], given[k], drawn)
        kept = torch.where(masks[k][..., None], drawn, given[k]) if swapped else kept
        kept = given[k] if whole and bool(masks[k].any()) else kept
        f_hat, shown = f_hat + contribution(kept, k), shown + contribution(drawn, k)
    return f_hat


def _ask_scales(*kept: tuple[int, ...]):
    """Scales of 1, 2 and 3 codes, of which those at the places ``kept[k]`` are given."""
    draw = torch.Generator().manual_seed(len(kept[1]))
    given = [torch.randn(k + 1, 2, generator=draw) for k in range(3)]
    masks = [torch.tensor([place in kept[k] for place in range(k + 1)]) for k in range(3)]

    def model(k: int, f_hat) -> Tensor:
        seen = f_hat if isinstance(f_hat, Tensor) else torch.zeros(6, 2)
        return torch.sin(seen[: k + 1] * 3 + k)

    def up(codes: Tensor, k: int) -> Tensor:
        return codes.repeat_interleave(6 // (k + 1), 0) / (k + 1)

    return lambda function: function(model, up, [codes.clone() for codes in given], masks)


EDITED = Exercise(
    edited,
    title="Keep what is given",
    stars=2,
    minutes=15,
    way_in="for each scale: draw, put the given codes in their places, add",
    hint="`torch.where(mask[..., None], given, drawn)`; the model draws from the sum so far, in which the kept codes "
    "already are.",
    remark="`sampling.edit` hands this one line to the sampler of chapter 07 as its argument `replace`.",
    cases=(
        ("some of each scale is given", _ask_scales((0,), (1,), (0, 2))),
        ("the first scale is given", _ask_scales((0,), (), ())),
        ("all is given", _ask_scales((0,), (0, 1), (0, 1, 2))),
    ),
    mistakes=(
        ("Drawn and given codes have changed places.", partial(_edited, swapped=True)),
        (
            "The model does not see what was kept: it draws from the sum that it is changing.",
            partial(_edited, late=True),
        ),
        ("Nothing is kept.", partial(_edited, blind=True)),
        ("Of a scale of which a part is given, all is taken.", partial(_edited, whole=True)),
    ),
)

# Pixels -----------------------------------------------------------------------------------------------------------


def cells_that_stay(keep, stride):
    """Mask of pixels (H, W) -> bool (H / stride, W / stride): a cell stays if all its pixels do."""
    filled = F.max_pool2d(1 - keep[None, None].float(), stride)
    return filled[0, 0] == 0


def _cells(keep, stride, some=False, most=False, corner=False) -> Tensor:
    share = F.avg_pool2d(keep[None, None].float(), stride)[0, 0]
    if corner:
        return keep[::stride, ::stride].bool()
    return share > 0 if some else share > 0.5 if most else share == 1


def _ask_pixels(rows: list[str], stride: int):
    keep = torch.tensor([[cell == "1" for cell in row] for row in rows])
    return lambda function: function(keep.clone(), stride).bool()


CELLS_THAT_STAY = Exercise(
    cells_that_stay,
    title="Cells that stay",
    stars=1,
    minutes=8,
    way_in="F.max_pool2d of what is filled",
    cases=(
        ("four cells of 2 x 2 pixels", _ask_pixels(["1011", "0010", "1101", "1101"], 2)),
        ("cells of 4 pixels, one of them touched", _ask_pixels(["11111111"] * 3 + ["11110111"], 4)),
    ),
    mistakes=(
        ("A cell of which a part is filled cannot stay: it would tell what was there.", partial(_cells, some=True)),
        ("Most is not all: the few pixels are in the code of the cell too.", partial(_cells, most=True)),
        ("Only a corner of each cell is looked at.", partial(_cells, corner=True)),
    ),
)


def laid_beside(given, drawn, keep, feather):
    """Images (B, C, H, W): the given one where it stays, bit for bit, and fading into the drawn one elsewhere."""
    kept = keep[None, None].to(given.dtype)
    reached = [F.max_pool2d(kept, 2 * d + 1, stride=1, padding=d) for d in range(feather + 1)]
    share = torch.stack(reached).mean(0)
    return torch.where(keep, given, share * given + (1 - share) * drawn)


def _laid(given, drawn, keep, feather, hard=False, outwards=False, everywhere=False, early=False) -> Tensor:
    kept = keep[None, None].to(given.dtype)
    if outwards:
        filled = 1 - kept
        share = 1 - torch.stack([F.max_pool2d(filled, 2 * d + 1, 1, d) for d in range(feather + 1)]).mean(0)
        return share * given + (1 - share) * drawn
    share = torch.stack([F.max_pool2d(kept, 2 * d + 1, 1, d) for d in range(feather + 1 - early)] or [kept]).mean(0)
    share = kept if hard else share
    mixed = share * given + (1 - share) * drawn
    return 0.5 * (given + drawn) if everywhere else torch.where(keep, given, mixed)


def _ask_feather(feather: int):
    draw = torch.Generator().manual_seed(5)
    given, drawn = (torch.randn(1, 1, 6, 6, generator=draw) for _ in range(2))
    keep = torch.zeros(6, 6, dtype=torch.bool)
    keep[:, :2] = True
    return lambda function: function(given.clone(), drawn.clone(), keep.clone(), feather)


LAID_BESIDE = Exercise(
    laid_beside,
    title="Laid beside",
    stars=2,
    minutes=15,
    way_in="how far is a pixel from one that stays?",
    hint="`F.max_pool2d(kept, 2 * d + 1, stride=1, padding=d)` is 1 for pixels at most $d$ away from one that stays. "
    "The mean over $d = 0, \\dots, \\text{feather}$ is the share of the given image.",
    cases=(
        ("without a feather", _ask_feather(0)),
        ("a feather of three pixels", _ask_feather(3)),
        ("a feather of one", _ask_feather(1)),
    ),
    mistakes=(
        ("There is a hard edge: the feather is not used.", partial(_laid, hard=True)),
        ("The feather lies outside: pixels that stay are changed by it.", partial(_laid, outwards=True)),
        ("Half of each, everywhere: what stays has to stay.", partial(_laid, everywhere=True)),
        ("The share falls to zero a pixel too early.", partial(_laid, early=True)),
    ),
)
