"""From noise to a picture, step by step: ancestral sampling (DDPM) and its deterministic relative (DDIM).

Explained in ``notebooks/12_rivals.ipynb``.
"""

import torch
from torch import Tensor

from minivar.models.dit import DiT
from minivar.models.noise import NoiseSchedule
from minivar.sampling.config import DiffusionSamplingConfig
from minivar.sampling.drawing import check_labels


@torch.no_grad()
def sample_diffusion(
    dit: DiT,
    labels: Tensor,
    noise: Tensor,
    steps: int = 250,
    cfg: float = 1.5,
    method: str = "ancestral",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Classes (B,) and noise (B, C, s, s) -> pictures (B, C, s, s) as ``dit`` was trained on: pixels or latents.

    ``cfg`` above 1 guides: noise = null + cfg (class - null). "ddim" (arXiv 2010.02502, eta 0) draws nothing;
    "ancestral" draws one ``randn`` of the whole (guided: doubled) batch at every step, the last one unused, as the
    published code does. Raises ``ValueError`` for impossible parameters. Source: DiT's code, ``sample.py``.
    """
    config = dit.config
    check_labels(labels, config.num_classes)
    shape = (len(labels), config.channels, config.input_size, config.input_size)
    if tuple(noise.shape) != shape:
        raise ValueError(f"Expected noise of shape {shape}; got {tuple(noise.shape)}.")
    DiffusionSamplingConfig(steps, cfg, method)
    schedule, x, batch = NoiseSchedule(steps), noise, len(labels)
    for step in reversed(range(steps)):
        t_B = torch.full((batch,), step, device=x.device)
        original_B = torch.full_like(t_B, int(schedule.timesteps[step]))
        epsilon, share = guided_output(dit, x, original_B, labels, cfg).chunk(2, dim=1)
        x0 = schedule.picture(x, epsilon, t_B)
        if method == "ddim":
            before = schedule.at(schedule.kept_before, t_B, x)
            x = before.sqrt() * x0 + (1 - before).sqrt() * epsilon
        else:
            deviation = (schedule.log_variance(share, t_B) / 2).exp()
            fresh = torch.randn(batch * (2 if cfg > 1 else 1), *shape[1:], generator=generator, device=x.device)
            x = schedule.step_back(x0, x, t_B) + (deviation * fresh[:batch] if step else 0)
    return x


def guided_output(dit: DiT, x: Tensor, t_B: Tensor, labels_B: Tensor, cfg: float) -> Tensor:
    """The network's answer (B, 2 C, s, s) with its noise guided; without guidance the null half is left out.

    The published code guides three channels of four, as it once did those of a coloured picture; its checkpoints are
    drawn from in the same way (``DiTConfig.guided_channels``).
    """
    if cfg == 1:
        return dit(x, t_B, labels_B)
    null_B = torch.full_like(labels_B, dit.config.num_classes)
    with_class, without = dit(x.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([labels_B, null_B])).chunk(2)
    guided = dit.config.guided_channels or dit.config.channels
    moved = without[:, :guided] + cfg * (with_class[:, :guided] - without[:, :guided])
    return torch.cat([moved, with_class[:, guided:]], dim=1)
