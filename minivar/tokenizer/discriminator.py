"""The discriminator of a tokenizer's training: is this patch of an image real?

Needed in training only, by ``losses.TokenizerLoss``; source: pix2pix (arXiv 1611.07004), VQGAN (arXiv 2012.09841).
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from minivar.checks import check


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator. Defaults: pix2pix's, VQGAN's and LlamaGen's, for images of 256 pixels.

    Each logit sees a patch of 70 pixels with three layers, of 34 with two, of 16 with one. Three layers turn an image
    of 28 pixels into a single logit; one or two suit it better.
    """

    base_channels: int = 64
    layers: int = 3  # stride-2 convolutions
    norm: str = "group"  # or "spectral": no statistics, every convolution's largest singular value is 1
    groups: int = 32  # of every GroupNorm

    def __post_init__(self) -> None:
        counts = {"base_channels": "[1, 1e6]", "layers": "[1, 16]", "groups": "[1, 1e6]"}
        check(self, norm=("group", "spectral"), **counts)
        if self.norm == "group" and (2 * self.base_channels) % self.groups:
            raise ValueError(
                f"GroupNorm with {self.groups} groups needs channels divisible by it; got {2 * self.base_channels} "
                "in the discriminator's second layer."
            )

    @property
    def patch(self) -> int:
        """Pixels along the side of what one logit sees, if the image is larger."""
        field = 1 + 3 + 3  # the two stride-1 convolutions at the end
        for _ in range(self.layers):
            field = 2 * field + 2  # (field - 1) * stride 2 + kernel 4
        return field

    @property
    def smallest_image(self) -> int:
        """Pixels along the shortest side for which a logit is left."""
        return 3 * 2**self.layers


class PatchDiscriminator(nn.Module):
    """PatchGAN: one logit for every overlapping patch of an image, positive where the patch looks real.

    A patch has no room for what an image shows, only for how it looks close up, and that is what the pixel losses
    miss: texture and sharp edges (pix2pix, arXiv 1611.07004, section 3.2.2; VQGAN, arXiv 2012.09841, section 3.1).

    DEVIATION: GroupNorm, or spectral normalisation (arXiv 1802.05957), stands where the published PatchGAN has
    BatchNorm. BatchNorm judges an image by its neighbours in the batch: real and reconstructed images would have to
    pass apart, each process of a distributed run would see other statistics, and the R1 penalty would not be a
    gradient of one image's logit. VAR's authors train against a frozen DINO network with small heads instead.
    """

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        widths = [config.base_channels * min(2**i, 8) for i in range(config.layers + 1)]
        stages: list[nn.Module] = [self._conv(channels, widths[0], stride=2), nn.LeakyReLU(0.2)]
        for i in range(1, config.layers + 1):
            stages.append(self._conv(widths[i - 1], widths[i], stride=2 if i < config.layers else 1))
            if config.norm == "group":
                stages.append(nn.GroupNorm(config.groups, widths[i]))
            stages.append(nn.LeakyReLU(0.2))
        self.stages = nn.Sequential(*stages, self._conv(widths[-1], 1, stride=1))

    def _conv(self, c_in: int, c_out: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(c_in, c_out, 4, stride, padding=1)
        nn.init.normal_(conv.weight, std=0.02)  # pix2pix, section 6.2
        return spectral_norm(conv) if self.config.norm == "spectral" else conv

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) float, about [-1, 1] -> logits (B, 1, rows, columns), one a patch.

        Raises ``ValueError`` if the channels are not the discriminator's or no patch fits the image.
        """
        smallest = self.config.smallest_image
        if images.dim() != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < smallest:
            raise ValueError(
                f"A discriminator of {self.config.layers} layers expects images (B, {self.channels}, height, width) "
                f"of at least {smallest} pixels a side; got {tuple(images.shape)}."
            )
        return self.stages(images)
