"""Drawing as the site's first page does it, for tests that compare: each token by one number in [0, 1)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minivar.sampling import next_scale, raster


def uniforms(count: int, images: int, seed: int = 4) -> list[Tensor]:
    """For each of ``count`` places one number an image, (images,) float64."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, images, generator=generator, dtype=torch.float64))


def by_uniforms(logits_BlV: Tensor, numbers: list[Tensor]) -> Tensor:
    """(B, l) int64: the first code at which the summed probabilities pass the next of ``numbers``, which it takes."""
    drawn_Bl1 = torch.stack([numbers.pop(0) for _ in range(logits_BlV.shape[1])], dim=1)[..., None]
    sums_BlV = logits_BlV.double().softmax(-1).cumsum(-1)
    return (sums_BlV <= drawn_Bl1 * sums_BlV[..., -1:]).sum(-1)


def drawn_with(numbers: list[Tensor], draw: Callable[[], object]) -> object:
    """What ``draw``, which calls the package's own loops, returns if they take their tokens by these numbers."""
    left = list(numbers)
    with pytest.MonkeyPatch.context() as patch:
        for module in (next_scale, raster):
            patch.setattr(module, "draw_tokens", lambda logits_BlV, _: by_uniforms(logits_BlV, left))
        return draw()
