"""Drawing with whatever model there is."""

import torch
from torch import Tensor

from minivar.models import GPT, VAR, DiT, Generator, MaskGIT
from minivar.sampling.diffusion import sample_diffusion
from minivar.sampling.drawing import Sample
from minivar.sampling.masked import sample_masked
from minivar.sampling.next_scale import sample
from minivar.sampling.raster import sample_raster
from minivar.tokenizer import VQVAE, Pixels


def generate(model: Generator, tokenizer: VQVAE | Pixels, labels: Tensor, generator=None, **settings) -> Sample:
    """Images of classes (B,) by the loop that the model needs, with the settings of its preset."""
    loops = {VAR: sample, GPT: sample_raster, MaskGIT: sample_masked, DiT: draw_by_diffusion}
    loop = next(loop for kind, loop in loops.items() if isinstance(model, kind))
    return loop(model, tokenizer, labels, generator=generator, **settings)


def draw_by_diffusion(dit: DiT, tokenizer: VQVAE | Pixels, labels: Tensor, generator=None, **settings) -> Sample:
    """``sample_diffusion`` from fresh noise, and what it drew as images."""
    config = dit.config
    shape = (len(labels), config.channels, config.input_size, config.input_size)
    noise = torch.randn(shape, generator=generator, device=labels.device)
    pictures = sample_diffusion(dit, labels, noise, generator=generator, **settings)
    images = tokenizer.decode_latents(pictures * dit.deviation_C11 + dit.mean_C11)
    return Sample((images + 1) / 2, None)
