"""The tasks of VAR's rivals: MaskGIT guesses hidden tokens, DiT the noise in latents or pixels.

Explained in ``notebooks/12_rivals.ipynb``.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.models import DiT, MaskGIT
from minivar.models.noise import STEPS, NoiseSchedule, diffusion_loss
from minivar.sampling import hidden_share
from minivar.tokenizer import TokenCache
from minivar.training.config import TrainingError
from minivar.training.task import Stats
from minivar.training.tasks import GeneratorTask

MEASURED = 4096  # images, at most, from which mean and deviation of the latents are taken


def evenly(index: Tensor) -> Tensor:
    """(B,) in (0, 1), by the images' numbers: as evenly spread as those are, whichever of them are a batch.

    In place of random numbers, for a held-out loss that neither jitters nor depends on how images are shared out. The
    fractions of multiples of the golden ratio fill the interval more evenly than chance.
    """
    return ((index.double() + 0.5) * (5**0.5 - 1) / 2 % 1).float()


def noise_of(index: Tensor, shape: tuple[int, ...], draw: Callable[..., Tensor]) -> Tensor:
    """(B, *shape), drawn by ``torch.rand`` or ``torch.randn`` from the generator of each image's own number."""
    return torch.stack([draw(shape, generator=torch.Generator().manual_seed(int(i))) for i in index])


class MaskGITTask(GeneratorTask):
    """Cross-entropy of the hidden tokens, given the others; how many are hidden is drawn anew for every image."""

    name = "maskgit"
    model: MaskGIT

    def hide(self, tokens_BN: Tensor, progress_B: Tensor, noise_BN: Tensor) -> Tensor:
        """Which tokens are hidden, bool (B, N): at least 1, as many as sampling hides at that point, by the noise."""
        count_B1 = (tokens_BN.shape[1] * hidden_share(progress_B)).ceil().long()[:, None]
        return noise_BN.argsort(1).argsort(1) < count_B1

    def predict(self, model: nn.Module, tokens_BN: Tensor, labels_B: Tensor, hidden_BN: Tensor, smoothing: float):
        """Cross-entropy of the hidden tokens, and the share of them that is guessed right.

        Sums over the images' hidden tokens, divided by how many they are on average over all progress, so that it
        does not matter which images are a batch: about nats a token.
        """
        logits_BNV = model(labels_B, tokens_BN.masked_fill(hidden_BN, self.model.mask_code))
        losses_BN = F.cross_entropy(
            logits_BNV.flatten(0, 1), tokens_BN.flatten(), reduction="none", label_smoothing=smoothing
        ).view_as(tokens_BN)
        weights_BN = hidden_BN / (tokens_BN.numel() * self.mean_hidden)
        hits_BN = logits_BNV.argmax(-1) == tokens_BN
        return (losses_BN * weights_BN).sum(), {"accuracy": (hits_BN * weights_BN).sum()}

    @functools.cached_property
    def mean_hidden(self) -> float:
        """The share of tokens that is hidden, on average over all progress: 2 / pi, and a little for rounding up."""
        tokens = self.model.config.num_tokens
        return (tokens * hidden_share(torch.linspace(0, 1, 10_001))).ceil().mean().item() / tokens

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, Stats]:
        """With label smoothing, as published."""
        tokens_BN, labels_B = (x.to(device) for x in self.encoded.batch(index, self.epoch))
        progress_B, noise_BN = torch.rand(len(tokens_BN), device=device), torch.rand(tokens_BN.shape, device=device)
        hidden_BN = self.hide(tokens_BN, progress_B, noise_BN)
        return self.predict(self.run, tokens_BN, labels_B, hidden_BN, self.model.config.label_smoothing)

    def heldout_loss(self, index: Tensor, device: torch.device) -> Stats:
        """Without smoothing, hence nats a hidden token; of an image the same tokens are hidden each time."""
        tokens_BN, labels_B = (x.to(device) for x in self.heldout_encoded.batch(index, 0))
        noise_BN = noise_of(index, tokens_BN.shape[1:], torch.rand).to(device)
        hidden_BN = self.hide(tokens_BN, evenly(index).to(device), noise_BN)
        loss, stats = self.predict(self.model, tokens_BN, labels_B, hidden_BN, 0.0)
        return {"loss": loss, **stats}


class DiTTask(GeneratorTask):
    """Squared error of the noise, and the variational term of the variance, at a random step of the thousand.

    Raises ``TrainingError`` for cached tokens, in which there are no latents.
    """

    name = "dit"
    model: DiT

    def __init__(self, model: DiT, *given, **options) -> None:
        """As every ``GeneratorTask``."""
        super().__init__(model, *given, **options)
        self.schedule = NoiseSchedule()
        if model.config.latents:
            self.measure()

    def accept(self, cache: TokenCache) -> None:
        """There are no latents in cached tokens."""
        raise TrainingError("A DiT learns from images: expected a dataset of them, got cached tokens.")

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W) -> latents (B, C, h, w), or the pixels themselves."""
        return self.tokenizer.latents(images.to(self.model.mean_C11.device))

    def measure(self) -> None:
        """Mean and deviation of each channel, over images that are spread evenly over the training set."""
        count = min(len(self.data), MEASURED)
        index = torch.arange(count) * len(self.data) // count
        latents = torch.cat([self.encoded.batch(part, 0)[0].cpu() for part in index.split(256)])
        deviation_C, mean_C = torch.std_mean(latents.double(), dim=(0, 2, 3))
        self.model.mean_C11.copy_(mean_C[:, None, None])
        self.model.deviation_C11.copy_(deviation_C[:, None, None])

    def predict(self, model: nn.Module, latents: Tensor, labels_B: Tensor, t_B: Tensor, noise: Tensor):
        """Both terms, averaged over the images."""
        x0 = (latents - self.model.mean_C11) / self.model.deviation_C11
        x_t = self.schedule.mix(x0, noise, t_B)
        output = model(x_t, t_B, labels_B).float()
        squared_B, variational_B = diffusion_loss(output, x0, x_t, noise, t_B, self.schedule)
        squared, variational = squared_B.mean(), variational_B.mean()
        return squared + variational, {"squared_error": squared.detach(), "variational": variational.detach()}

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, Stats]:
        """At a random step for every image."""
        latents, labels_B = (x.to(device) for x in self.encoded.batch(index, self.epoch))
        t_B = torch.randint(STEPS, (len(latents),), device=device)
        return self.predict(self.run, latents, labels_B, t_B, torch.randn_like(latents))

    def heldout_loss(self, index: Tensor, device: torch.device) -> Stats:
        """At steps that are spread evenly, each image with the same step and noise each time."""
        latents, labels_B = (x.to(device) for x in self.heldout_encoded.batch(index, 0))
        noise = noise_of(index, latents.shape[1:], torch.randn).to(device)
        t_B = (evenly(index) * STEPS).long().to(device)
        loss, stats = self.predict(self.model, latents, labels_B, t_B, noise)
        return {"loss": loss, **stats}
