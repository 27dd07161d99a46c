"""In-painting and out-painting in pixels, with whatever model draws tokens: what stays is bit for bit as given.

``editing`` is the paper's way, for a mask of latent cells. Here a mask has pixels (``data.masks``), what lies under
it is hidden before anything looks at the picture, and what was drawn is laid beside what stays.
Explained in ``notebooks/10_editing.ipynb``.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.data.masks import check_mask
from minivar.models import GPT, VAR, Generator, MaskGIT
from minivar.sampling.drawing import Sample
from minivar.sampling.editing import edit
from minivar.sampling.masked import sample_masked
from minivar.sampling.raster import sample_raster
from minivar.tokenizer import VQVAE, Pixels


@torch.no_grad()
def inpaint(
    model: Generator,
    tokenizer: VQVAE | Pixels,
    images: Tensor,
    labels: Tensor,
    keep: Tensor,
    feather: int = 0,
    passes: int = 2,
    generator: torch.Generator | None = None,
    **settings,
) -> Sample:
    """Draw anew what ``keep``, bool (height, width), does not keep of ``images``, (B, C, height, width) in [-1, 1].

    ``labels`` (B,): the null class to complete a picture, a class to edit towards it. ``feather``: over how many
    pixels inside the filled part the surroundings fade into it. ``settings``: those of the model's sampler. Returns
    images in [0, 1], (images + 1) / 2 bit for bit where they stay, and the tokens that were drawn in the last pass.
    Raises ``ValueError`` for a mask, images or labels that do not fit, and for models that draw no tokens.

    DEVIATION: the paper encodes the given picture as it is, and its coarse codes, kept where most of their cell is,
    tell what is to be replaced. Here smooth surroundings are laid over it first (``extended``). To the coarse codes
    they are a picture with a blank in it, hence ``passes``: each encodes what the one before completed.
    """
    _check(model, images, labels, feather, passes)
    check_mask(keep, tuple(images.shape[-2:]))
    images, tokens = _completed(model, tokenizer, images, labels, keep, feather, passes, generator, settings)
    return Sample((images + 1) / 2, tokens)


@torch.no_grad()
def outpaint(
    model: Generator,
    tokenizer: VQVAE | Pixels,
    images: Tensor,
    labels: Tensor,
    margins: tuple[int, int, int, int],
    feather: int = 0,
    passes: int = 2,
    generator: torch.Generator | None = None,
    **settings,
) -> Sample:
    """Go on beyond the border: ``margins`` pixels at the top, bottom, left and right of ``images``.

    Models draw pictures of one size, so that a window of this size moves outwards over a larger canvas, by half its
    side at a time, and in each place what is known of it stays and the rest is drawn (``inpaint``, which has the
    other arguments). Nothing outside the window is seen. Returns images of the canvas's size, within which what was
    given lies bit for bit, and no tokens. Raises ``ValueError`` as ``inpaint`` does, and for impossible margins.
    """
    _check(model, images, labels, feather, passes)
    if len(margins) != 4 or min(margins) < 0 or max(margins) == 0:
        raise ValueError(
            "Out-painting needs four margins (top, bottom, left, right) of at least 0 pixels, and one above 0; got "
            f"{tuple(margins)}."
        )
    (top, bottom, left, right), (height, width) = margins, images.shape[-2:]
    canvas = F.pad(images, (left, right, top, bottom))
    known = F.pad(torch.ones(height, width, dtype=torch.bool, device=images.device), (left, right, top, bottom))
    rows, columns = _places(height, top, bottom), _places(width, left, right)
    for (row, _), (column, _) in sorted(
        itertools.product(rows, columns), key=lambda place: place[0][1] + place[1][1]
    ):
        window = (..., slice(row, row + height), slice(column, column + width))
        if not known[window].all():
            given, keep = canvas[window], known[window]
            canvas[window], _ = _completed(
                model, tokenizer, given, labels, keep, feather, passes, generator, settings
            )
            known[window] = True
    return Sample((canvas + 1) / 2, None)


def _places(side: int, before: int, after: int) -> list[tuple[int, int]]:
    """Where along an axis a window of ``side`` pixels stands, and how many steps that is from the picture."""
    step = max(side // 2, 1)
    backwards = [(max(before - n * step, 0), n) for n in range(1, -(-before // step) + 1)]
    forwards = [(min(before + n * step, before + after), n) for n in range(1, -(-after // step) + 1)]
    return [(before, 0), *backwards, *forwards]


def check_editable(model: Generator) -> None:
    """Raise ``ValueError`` unless this model draws tokens."""
    if not isinstance(model, VAR | GPT | MaskGIT):
        raise ValueError(
            f"Editing keeps some tokens and draws others: expected VAR, GPT or MaskGIT; got a {type(model).__name__}."
        )


def _check(model: Generator, images: Tensor, labels: Tensor, feather: int, passes: int) -> None:
    check_editable(model)
    if images.dim() != 4 or len(labels) != len(images):
        raise ValueError(
            f"Expected images (B, C, height, width) and a label for each; got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if feather < 0 or passes < 1:
        raise ValueError(f"Expected a feather of at least 0 and one pass or more; got {feather} and {passes}.")


def _completed(model, tokenizer, images, labels, keep, feather, passes, generator, settings) -> tuple[Tensor, Tensor]:
    """``inpaint`` after its checks; images in [-1, 1], and tokens."""
    keep = keep.to(images.device)
    cells = kept_cells(tokenizer, keep)
    surroundings = completed = extended(images, keep)
    for _ in range(passes):
        drawn = redraw(model, tokenizer, completed, labels, cells, generator, **settings)
        completed = composite(surroundings, drawn.images * 2 - 1, keep, feather)
    return completed, drawn.tokens


@torch.no_grad()
def redraw(
    model: VAR | GPT | MaskGIT,
    tokenizer: VQVAE,
    images: Tensor,
    labels: Tensor,
    cells: Tensor,
    generator: torch.Generator | None = None,
    **settings,
) -> Sample:
    """``edit`` by the loop that the model needs: tokens stay in ``cells``, bool (h, w), and are drawn in the others.

    To MaskGIT those that stay are shown from the beginning. Raster order knows of them when it has come past them:
    what it draws above or to the left of them is drawn without them, and it can only complete downwards.
    """
    if isinstance(model, VAR):
        return edit(model, tokenizer, images, labels, cells, generator=generator, **settings)
    given_BN = tokenizer.encode(images)[0].where(cells.flatten(), -1)
    if isinstance(model, MaskGIT):
        return sample_masked(model, tokenizer, labels, generator=generator, given=given_BN, **settings)
    grid = tuple(cells.shape)
    return sample_raster(model, tokenizer, labels, generator=generator, grid=grid, given=given_BN, **settings)


def extended(images: Tensor, keep: Tensor) -> Tensor:
    """Images (B, C, H, W) whose pixels that do not stay are made of the others: means around them, wider further in.

    What lay there before is not looked at. By a pyramid: at half the resolution a pixel is the mean of what stays in
    its block, and where nothing does, it is made of the next coarser ones in the same way.
    """

    def fill(images: Tensor, share: Tensor) -> Tensor:
        size = images.shape[-2:]
        if bool((share > 0).all()) or size == (1, 1):
            return images
        half = tuple(-(-side // 2) for side in size)
        coarse_share = F.adaptive_avg_pool2d(share, half)
        coarse = F.adaptive_avg_pool2d(images * share, half) / coarse_share.clamp_min(1e-12)
        beyond = F.interpolate(fill(coarse, coarse_share), size, mode="bilinear")
        return torch.where(share > 0, images, beyond)

    return fill(torch.where(keep, images, 0.0), keep[None, None].to(images.dtype))


def composite(given: Tensor, drawn: Tensor, keep: Tensor, feather: int = 0) -> Tensor:
    """Images (B, C, H, W): ``given`` where it stays, bit for bit, ``drawn`` elsewhere.

    ``feather`` pixels inside what is filled pass from one to the other: at distance d from a pixel that stays, along
    either axis, the given image has the share (feather + 1 - d) / (feather + 1).
    """
    kept = keep[None, None].to(given.dtype)
    reached = [F.max_pool2d(kept, 2 * d + 1, stride=1, padding=d) for d in range(feather + 1)]
    share = torch.stack(reached).mean(0)
    return torch.where(keep, given, share * given + (1 - share) * drawn)


def kept_cells(tokenizer: VQVAE, keep: Tensor) -> Tensor:
    """Mask of pixels (height, width) -> bool (h, w): a cell of the latent grid stays if all its pixels do.

    So nothing that is drawn anew is half hidden, and pixels that stay in a cell that does not are laid over what was
    drawn there, at the price of a seam. Pixels that complete the last cells repeat the border, as in the encoder.
    """
    filled = F.pad(1 - keep[None, None].float(), tokenizer.padding, mode="replicate")
    return F.max_pool2d(filled, tokenizer.config.nets.stride)[0, 0] == 0
