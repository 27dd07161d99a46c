"""Gaussian diffusion: how a picture becomes noise in 1,000 steps, and what a network must learn to go back.

Step t mixes the picture with fresh noise: x_t = sqrt(a_t) x_{t-1} + sqrt(1 - a_t) noise. All steps up to t together
are one mixture, x_t = sqrt(A_t) x_0 + sqrt(1 - A_t) noise with A_t = a_1 ... a_t, so that training jumps to any t at
once (DDPM, arXiv 2006.11239). The step back is a Gaussian whose mean follows from the noise, and whose variance the
network chooses between two bounds (arXiv 2102.09672). Explained in ``notebooks/12_rivals.ipynb``.
"""

import math

import torch
from torch import Tensor

STEPS = 1000


class NoiseSchedule:
    """Numbers of each step, float64 (T,): published DiT's 1,000, or a subset of them to draw in fewer.

    ``steps`` of the 1,000 are kept, evenly spread from the first to the last. The mixture at a kept step is what it
    was; the steps between two of them become one.
    """

    def __init__(self, steps: int = STEPS) -> None:
        if not 1 <= steps <= STEPS:
            raise ValueError(f"Diffusion draws in 1 to {STEPS} steps; got {steps}.")
        betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
        stride = (STEPS - 1) / (steps - 1) if steps > 1 else 1.0
        self.timesteps = torch.tensor([round(i * stride) for i in range(steps)])  # of the 1,000
        self.kept = (1 - betas).cumprod(0)[self.timesteps]  # A_t, the share of the picture in the variance of x_t
        self.kept_before = torch.cat([torch.ones(1, dtype=torch.float64), self.kept[:-1]])  # A_{t-1}
        self.betas = 1 - self.kept / self.kept_before  # 1 - a_t
        # the step back, given x_0: mean = on_picture x_0 + on_noisy x_t, and its variance, the smallest sensible one
        self.on_picture = self.betas * self.kept_before.sqrt() / (1 - self.kept)
        self.on_noisy = (1 - self.kept_before) * (1 - self.betas).sqrt() / (1 - self.kept)
        smallest = self.betas * (1 - self.kept_before) / (1 - self.kept)
        smallest[0] = smallest[1] if steps > 1 else self.betas[0]  # the last step back has none, and no logarithm
        self.log_smallest, self.log_largest = smallest.log(), self.betas.log()

    def mix(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """Pictures and noise (B, C, s, s) -> x_t, at the steps t (B,)."""
        return self.at(self.kept.sqrt(), t_B, x0) * x0 + self.at((1 - self.kept).sqrt(), t_B, x0) * noise

    def picture(self, x_t: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """The picture that this noise leaves of x_t: ``mix`` solved for x_0."""
        return (x_t - self.at((1 - self.kept).sqrt(), t_B, x_t) * noise) / self.at(self.kept.sqrt(), t_B, x_t)

    def step_back(self, x0: Tensor, x_t: Tensor, t_B: Tensor) -> Tensor:
        """Mean of x_{t-1}, given the picture and x_t."""
        return self.at(self.on_picture, t_B, x_t) * x0 + self.at(self.on_noisy, t_B, x_t) * x_t

    def log_variance(self, share: Tensor, t_B: Tensor) -> Tensor:
        """The network's channels in [-1, 1] -> log variance of the step back, between its bounds."""
        share = (share + 1) / 2
        return share * self.at(self.log_largest, t_B, share) + (1 - share) * self.at(self.log_smallest, t_B, share)

    @staticmethod
    def at(values_T: Tensor, t_B: Tensor, like: Tensor) -> Tensor:
        """The numbers of the steps t (B,), as (B, 1, 1, 1) of the pictures' kind."""
        return values_T.to(like.device)[t_B].to(like.dtype)[:, None, None, None]


def diffusion_loss(output: Tensor, x0: Tensor, x_t: Tensor, noise: Tensor, t_B: Tensor, schedule: NoiseSchedule):
    """What the network said of x_t, (B, 2 C, s, s) -> squared error of the noise and variational term, (B,) each.

    The variational term (bits for a number) trains the variance only: the mean is taken as it is. It is the
    divergence of the true step back from the network's, and for the last step the likelihood of the picture, whose
    numbers are taken as bins of width 2 / 255.
    """
    epsilon, share = output.chunk(2, dim=1)
    log_variance = schedule.log_variance(share, t_B)
    mean = schedule.step_back(schedule.picture(x_t, epsilon.detach(), t_B), x_t, t_B)
    true_mean, true_log = schedule.step_back(x0, x_t, t_B), schedule.at(schedule.log_smallest, t_B, x_t)
    divergence = gaussian_divergence(true_mean, true_log, mean, log_variance).mean((1, 2, 3))
    likelihood = -bin_log_likelihood(x0, mean, log_variance / 2).mean((1, 2, 3))
    variational = torch.where(t_B == 0, likelihood, divergence) / math.log(2)
    return (noise - epsilon).square().mean((1, 2, 3)), variational


def gaussian_divergence(mean_a: Tensor, log_a: Tensor, mean_b: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) of two Gaussians with these means and log variances, number by number, in nats."""
    return ((log_b - log_a) + (log_a - log_b).exp() + (mean_a - mean_b).square() * (-log_b).exp() - 1) / 2


def bin_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log of the mass that a Gaussian gives to the bin of width 2 / 255 around x; the outermost bins are unbounded.

    The distribution function is the published code's approximation by tanh.
    """

    def below(edge: Tensor) -> Tensor:
        z = (edge - mean) * (-log_deviation).exp()
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2

    under, over = below(x - 1 / 255), below(x + 1 / 255)
    inner = torch.where(x > 0.999, 1 - under, over - under)
    return torch.where(x < -0.999, over, inner).clamp_min(1e-12).log()
