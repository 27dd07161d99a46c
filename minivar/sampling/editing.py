"""Zero-shot editing: keep part of a given image, let the model fill in the rest.

No training is needed (paper, appendix B): at every scale, the codes inside the kept region are replaced by those of
the given image before they are added to f_hat, so the model only ever continues from the true surroundings.
In-painting and out-painting use the null class; a real class gives class-conditional editing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.models.var import VAR
from minivar.sampling.drawing import Sample
from minivar.sampling.next_scale import sample
from minivar.scales import ScaleSchedule
from minivar.tokenizer.vqvae import VQVAE


def masks_per_scale(schedule: ScaleSchedule, keep_mask: Tensor) -> list[Tensor]:
    """Mask (h_K, w_K), 1 where the image stays -> K bool tensors (h_k * w_k,): resized bilinearly, then > 0.5.

    A 1x1 scale is always kept: it carries the image's overall tone.
    """
    if tuple(keep_mask.shape) != schedule.final_grid:
        raise ValueError(f"keep_mask must have the latent grid {schedule.final_grid}; got {tuple(keep_mask.shape)}.")
    masks = []
    for grid in schedule.grids:
        resized = F.interpolate(keep_mask[None, None].float(), size=grid, mode="bilinear")
        masks.append((resized > 0.5).flatten() if grid != (1, 1) else torch.ones_like(resized[0, 0, 0]).bool())
    return masks


@torch.no_grad()
def edit(
    model: VAR,
    tokenizer: VQVAE,
    images: Tensor,
    labels: Tensor,
    keep_mask: Tensor,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Sample:
    """Regenerate the part of ``images``, (B, 3, H, W) in [-1, 1], where ``keep_mask``, (h_K, w_K), is 0.

    ``labels`` (B,): ``num_classes`` (the null class) for in- and out-painting, a class to edit towards. Returns
    images in [0, 1] and the tokens that were drawn, (B, L), also those that the given image overrode.
    Raises ``ValueError`` for a mask or images of the wrong shape. Source: paper, appendix B.
    """
    given = [tokenizer.quantizer.lookup(tokens) for tokens in tokenizer.encode(images)]
    masks = [mask[None, :, None].to(images.device) for mask in masks_per_scale(model.schedule, keep_mask)]

    def keep_given(k: int, codes_BlC: Tensor) -> Tensor:
        return torch.where(masks[k], given[k], codes_BlC)

    return sample(model, tokenizer, labels, cfg, top_k, top_p, generator=generator, replace=keep_given)
