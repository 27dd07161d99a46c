"""What a tokenizer is trained with: pixels, a perceptual distance, and a discriminator that learns beside it.

    L = l1 |x - y| + l2 (x - y)^2 + perceptual LPIPS(x, y) + quantiser's loss + weight * GAN(y)

for an image x and its reconstruction y. Pixel losses alone prefer a blur to a sharp edge in a slightly wrong place;
LPIPS compares what a network that knows photographs sees, and the discriminator asks whether a patch could be real.
``TokenizerLoss`` joins the terms and ``LossConfig`` weighs them; the parts can also be read and used one by one.
Sources: VQGAN (arXiv 2012.09841), LlamaGen (arXiv 2406.06525), and the single-scale trainer of VAR's authors.
Explained in ``notebooks/13a_own_pictures.ipynb``.
"""

import warnings
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from minivar.checks import check
from minivar.distributed import mean_over_ranks
from minivar.files import CheckpointError, read_state_dict
from minivar.precision import full_precision
from minivar.tokenizer.discriminator import DiscriminatorConfig, PatchDiscriminator


class LossError(ValueError):
    """A loss that cannot be built or computed."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of a tokenizer's loss; a weight of 0 leaves the term out. Defaults: those of VAR's authors' trainer.

    DEVIATION: their discriminator is a frozen DINO network with trained heads, held to the same answer under two
    augmentations of an image; here it is a PatchGAN, as in VQGAN and LlamaGen, and sees images as they are.
    """

    l1: float = 0.2
    l2: float = 1.0
    perceptual: float = 1.0  # LPIPS
    perceptual_size: int | None = None  # images with a shorter side are enlarged to it for LPIPS; None: as they are
    gan: float = 0.4
    adaptive: bool = True  # multiply the GAN weight by the ratio of gradient norms (VQGAN, equation 7)
    gan_start: float = 0.22  # share of the run before which there is no discriminator
    gan_start_step: int | None = None  # the same as a number of steps; None: by share
    gan_warmup: float = 0.02  # share of the run over which the GAN weight grows to its value
    lecam: float = 0.0  # a usual weight is 0.001 (MAGVIT)
    lecam_decay: float = 0.99  # of the moving averages of logits
    r1: float = 0.0  # gamma; usual weights are 1 to 10
    entropy: float = 0.0  # of the assignment to codes; a usual weight is 0.1 (MaskGIT's tokenizer)
    entropy_temperature: float = 0.01
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        weights = dict.fromkeys(("l1", "l2", "perceptual", "gan", "lecam", "r1", "entropy"), "[0, inf)")
        check(
            self,
            LossError,
            **weights,
            perceptual_size=f"[{Perceptual.SMALLEST}, 65536]",
            gan_start="[0, 1]",
            gan_start_step="[0, inf)",
            gan_warmup="[0, 1]",
            lecam_decay="[0, 1)",
            entropy_temperature="(0, inf)",
        )


# Pixels and perception --------------------------------------------------------------------------------------------


def pixel_loss(images: Tensor, reconstruction: Tensor, l1: float = 0.2, l2: float = 1.0) -> tuple[Tensor, dict]:
    """l1 mean|x - y| + l2 mean(x - y)^2 of two (B, channels, height, width), and both means as ``l1`` and ``mse``."""
    stats = {"l1": F.l1_loss(reconstruction, images), "mse": F.mse_loss(reconstruction, images)}
    return l1 * stats["l1"] + l2 * stats["mse"], stats


def vgg16_weights(path: Path | None = None) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of VGG-16 from ``path``, or downloaded once (528 MB); else a ``LossError``."""
    from torchvision.models import VGG16_Weights

    url = VGG16_Weights.IMAGENET1K_V1.url
    try:
        if path is not None:
            return read_state_dict(path, "state_dict")
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except CheckpointError as error:
        raise LossError(f"backbone_weights must be a file with torchvision's vgg16 state dict: {error}") from error
    except (OSError, HTTPException, RuntimeError) as error:
        raise LossError(
            f"LPIPS needs the weights of VGG-16, and {url} could not be downloaded ({error}): fetch that file "
            "elsewhere and pass it as backbone_weights, or train without LPIPS: set the perceptual weight to 0."
        ) from error


class Perceptual(nn.Module):
    """LPIPS, the distance of VGG-16 features, weighted to agree with human judgement (arXiv 1801.03924, section 3).

    The ``lpips`` package brings the weights of the comparison, not those of VGG-16: ``backbone_weights`` is a file
    with torchvision's state dict, with or without the classifier, and without it they are downloaded. Everything here
    is frozen: there are no parameters, dropout is off in train mode too, and nothing of it enters a state dict.
    ``shapes_only`` makes it without weights, on the meta device, for whoever counts and does not compute.
    """

    SMALLEST = 16  # pixels a side: VGG-16 halves its input four times before the last layer that is compared

    def __init__(self, backbone_weights: Path | None = None, size: int | None = None, shapes_only=False) -> None:
        import lpips  # here, because it takes seconds that a run without LPIPS need not spend

        super().__init__()
        self.size = size
        with torch.device("meta"), warnings.catch_warnings():  # 138 M weights that need no random values
            warnings.simplefilter("ignore", UserWarning)  # lpips uses torchvision's former arguments
            self.lpips = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
        if not shapes_only:
            self._load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", backbone_weights)
        for module in self.lpips.modules():  # what is no parameter cannot be trained, synchronised or saved
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, tensor.detach().clone(), persistent=False)
        self.eval()

    def _load(self, weighting: Path, backbone_weights: Path | None) -> None:
        state = torch.load(weighting, map_location="cpu", weights_only=True)
        backbone = vgg16_weights(backbone_weights)
        for name, parameter in self.lpips.net.named_parameters():  # "slice2.5.weight" is VGG's "features.5.weight"
            key = "features." + name.split(".", 1)[1]
            shape = tuple(backbone[key].shape) if key in backbone else None
            if shape != tuple(parameter.shape):
                raise LossError(
                    f"{backbone_weights} does not hold torchvision's vgg16 state dict: expected {key} of shape "
                    f"{tuple(parameter.shape)}, got {shape}."
                )
            state["net." + name] = backbone[key].float()
        self.lpips.load_state_dict(state, strict=False, assign=True)

    def train(self, mode: bool = True) -> "Perceptual":
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches (B, 3 or 1, height, width) in [-1, 1] -> their mean distance, a scalar of at least 0.

        Grey is repeated to three channels. Raises ``LossError`` for any other number of them, and for images of less
        than 16 pixels a side where no ``size`` to enlarge them to is given.
        """
        # d(x, y) = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2, with features f_l of length 1 along the channels
        return self.lpips(self._prepared(images), self._prepared(reconstruction)).mean()

    def _prepared(self, images: Tensor) -> Tensor:
        shape, shorter = tuple(images.shape), min(images.shape[2:], default=0)
        if len(shape) != 4 or shape[1] not in (1, 3) or (self.size is None and shorter < self.SMALLEST):
            raise LossError(
                f"LPIPS expects images (B, 3 or 1, height, width) of at least {self.SMALLEST} pixels a side, or a "
                f"perceptual_size to enlarge them to; got {shape}."
            )
        if self.size is not None and shorter < self.size:
            scaled = [round(side * self.size / shorter) for side in shape[2:]]
            images = F.interpolate(images, size=scaled, mode="bilinear", align_corners=False)
        return images.expand(-1, 3, -1, -1)


# The adversarial game ---------------------------------------------------------------------------------------------


def hinge_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """1/2 E[max(0, 1 - D(x))] + 1/2 E[max(0, 1 + D(y))] (arXiv 1705.02894): only what is not yet clear counts."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def hinge_generator_loss(logits_fake: Tensor) -> Tensor:
    """-E[D(y)]: the tokenizer wants its reconstructions to be judged real."""
    return -logits_fake.mean()


def adaptive_weight(reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor | None) -> Tensor:
    """How much stronger the reconstruction loss pulls at the decoder's last weight than the GAN does, in [0, 1e4].

    Times this, both pull alike, whatever the scale of the logits (VQGAN, equation 7; the 1e-4 and the limits are its
    code's). A scalar without gradients, 0 where there are none to compare, as in validation. In a distributed run the
    gradients are those of the whole batch.
    """
    if not generator_loss.requires_grad:
        return generator_loss.new_zeros(())
    if last_layer is None:
        raise LossError("The adaptive GAN weight needs last_layer, the decoder's last weight; got none.")
    # |grad L_rec| / (|grad L_GAN| + delta)
    losses = (reconstruction_loss, generator_loss)
    both = mean_over_ranks(torch.stack([torch.autograd.grad(x, last_layer, retain_graph=True)[0] for x in losses]))
    return (both[0].norm() / (both[1].norm() + 1e-4)).clamp(0, 1e4)


def r1_penalty(images: Tensor, logits_real: Tensor, gamma: float = 1.0) -> Tensor:
    """gamma/2 E|grad_x D(x)|^2 at real images (arXiv 1801.04406, section 4.1), D(x) being the sum over patches.

    ``images`` (B, ...) must require gradients, and ``logits_real`` must have been computed from them.
    """
    (gradient,) = torch.autograd.grad(logits_real.sum(), images, create_graph=True)
    return gamma / 2 * gradient.square().flatten(1).sum(1).mean()


class LeCam(nn.Module):
    """Keeps the discriminator's answers near their moving averages, which helps where data is scarce.

    E[max(0, D(x) - a_fake)^2] + E[max(0, a_real - D(y))^2] with moving averages a of the logits (arXiv 2104.03310;
    the max is its code's). The averages are buffers; training forwards update them first.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("sums", torch.zeros(2))  # of real and of fake logits, decaying, from 0
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """Logits of any shape -> scalar."""
        if self.training:
            batch = mean_over_ranks(torch.stack([logits_real.mean(), logits_fake.mean()]))
            self.sums.lerp_(batch.float(), 1 - self.decay)
            self.updates += 1
        real, fake = self.sums / (1 - self.decay**self.updates).clamp_min(1e-8)  # freed of their start at 0
        return F.relu(logits_real - fake).square().mean() + F.relu(real - logits_fake).square().mean()


def codebook_entropy(vectors_NC: Tensor, codes_VC: Tensor, temperature: float = 0.01) -> Tensor:
    """E_n[H(p_n)] - H(E_n[p_n]), from -log V to 0, for p_n = softmax(-|z_n - e|^2 / temperature) over the codes e.

    The first term asks each vector to choose clearly, the second asks all of them to choose differently (MAGVIT-v2,
    arXiv 2310.05737, section 3.1). It holds N x V numbers: pass a part of the vectors (N, C) where that is too many.
    """
    with full_precision(vectors_NC):
        distance_NV = torch.cdist(vectors_NC.float(), codes_VC.float()).square()
        log_p_NV = F.log_softmax(-distance_NV / temperature, dim=1)
        p_V = log_p_NV.exp().mean(0)
        each = -(log_p_NV.exp() * log_p_NV).sum(1).mean()
        return each + (p_V * p_V.clamp_min(1e-10).log()).sum()  # the limit: log 0 has no gradient


class TokenizerLoss(nn.Module):
    """The loss of a tokenizer and that of its discriminator, for a run of ``steps`` steps on images of ``channels``.

    A training step calls ``forward`` and lets the tokenizer's optimiser step, then calls ``discriminator_loss`` and,
    if that requires gradients, lets a second optimiser step over ``parameters()``, which are the discriminator's. The
    state dict holds what a resumed run needs, discriminator and LeCam averages, and no LPIPS. Both methods return a
    loss and a dict of named scalars without gradients, the same names at every step.

    Distributed runs wrap ``discriminator`` alone in DDP and pass the wrapper to ``discriminator_loss``; there
    ``last_layer`` must be a whole tensor, so the tokenizer runs under DDP, not FSDP.
    """

    def __init__(self, config: LossConfig, channels: int, steps: int, backbone_weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.start = round(config.gan_start * steps) if config.gan_start_step is None else config.gan_start_step
        self.warmup = max(1, round(config.gan_warmup * steps))
        if config.gan and self.start >= steps:
            raise LossError(f"The discriminator must start before step {steps}, the run's end; got {self.start}.")
        self.perceptual = Perceptual(backbone_weights, config.perceptual_size) if config.perceptual else None
        self.discriminator = PatchDiscriminator(config.discriminator, channels) if config.gan else None
        self.lecam = LeCam(config.lecam_decay) if config.gan and config.lecam else None

    def gan_factor(self, step: int) -> float:
        """Share of the GAN's weight in force at ``step``, counted from 0: 0 before the start, then a ramp up to 1."""
        if self.discriminator is None or step < self.start:
            return 0.0
        return min(1.0, (step - self.start + 1) / self.warmup)

    def reconstruction_loss(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixel and perceptual terms alone, with their parts by name: what held-out images are compared in."""
        config = self.config
        rebuilt, stats = pixel_loss(images, reconstruction, config.l1, config.l2)
        if self.perceptual is not None:
            stats["perceptual"] = self.perceptual(images, reconstruction)
            rebuilt = rebuilt + config.perceptual * stats["perceptual"]
        return rebuilt, stats

    def forward(
        self,
        images: Tensor,
        reconstruction: Tensor,
        quantizer_loss: Tensor,
        step: int,
        last_layer: Tensor | None = None,
        vectors: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokenizer's loss at ``step``: images and reconstruction (B, channels, height, width), about [-1, 1].

        ``last_layer``: the decoder's last weight, ``decoder.conv_out.weight``, for the adaptive factor. ``vectors``
        (N, C) and ``codes`` (V, C): what was quantised and the codebook, for the entropy term. Gradients pass the
        discriminator but do not enter it.
        """
        config = self.config
        images, reconstruction = images.float(), reconstruction.float()
        rebuilt, stats = self.reconstruction_loss(images, reconstruction)
        stats["quantizer_loss"] = quantizer_loss
        loss = rebuilt + quantizer_loss
        if config.entropy:
            if vectors is None or codes is None:
                raise LossError("The entropy term needs the quantised vectors and the codes; got none.")
            stats["entropy"] = codebook_entropy(vectors, codes, config.entropy_temperature)
            loss = loss + config.entropy * stats["entropy"]
        if self.discriminator is not None:
            stats["generator_loss"] = stats["gan_weight"] = rebuilt.new_zeros(())
        if self.gan_factor(step):
            fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            adversarial = hinge_generator_loss(functional_call(self.discriminator, fixed, (reconstruction,)).float())
            weight = rebuilt.new_full((), config.gan * self.gan_factor(step))
            if config.adaptive:
                weight = weight * adaptive_weight(rebuilt, adversarial, last_layer)
            stats["generator_loss"], stats["gan_weight"] = adversarial, weight
            loss = loss + weight * adversarial
        return loss, {name: value.detach() for name, value in stats.items()}

    def discriminator_loss(
        self, images: Tensor, reconstruction: Tensor, step: int, discriminator: nn.Module | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss at ``step``, for images and reconstruction as in ``forward``.

        Before its start the loss is 0 and does not require gradients: leave out its optimiser's step. A
        ``discriminator`` is called in place of the own one: that one in its distributed wrapper.
        """
        names = ["discriminator_loss", "discriminator_accuracy", "logits_real", "logits_fake"]
        names += [name for name in ("lecam", "r1") if getattr(self.config, name)]
        if not self.gan_factor(step):
            return images.new_zeros(()), dict.fromkeys(names if self.config.gan else (), images.new_zeros(()))
        penalise = self.config.r1 > 0 and torch.is_grad_enabled()
        real = images.detach().float().requires_grad_(penalise)
        judge = self.discriminator if discriminator is None else discriminator
        # One forward for both halves, which is what DDP expects before a backward
        logits_real, logits_fake = judge(torch.cat([real, reconstruction.detach().float()])).float().chunk(2)
        loss = hinge_discriminator_loss(logits_real, logits_fake)
        right = 0.5 * ((logits_real > 0).float().mean() + (logits_fake < 0).float().mean())
        stats = dict(zip(names, (loss, right, logits_real.mean(), logits_fake.mean())))
        if self.lecam is not None:
            stats["lecam"] = self.lecam(logits_real, logits_fake)
            loss = loss + self.config.lecam * stats["lecam"]
        if self.config.r1:
            stats["r1"] = r1_penalty(real, logits_real, self.config.r1) if penalise else loss.new_zeros(())
            loss = loss + stats["r1"]
        return loss, {name: value.detach() for name, value in stats.items()}


VAR_LOSS = LossConfig()
# LlamaGen's: a constant weight, from a step on, at once (section 2.2 of the paper; its code leaves "adaptive" off).
LLAMAGEN_LOSS = LossConfig(l1=0.0, gan=0.5, adaptive=False, gan_start_step=20_000, gan_warmup=0.0)
PIXEL_LOSS = LossConfig(perceptual=0.0, gan=0.0)  # neither a download nor a discriminator
