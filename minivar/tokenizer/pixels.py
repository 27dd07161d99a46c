"""Where a model draws the pixels themselves: the tokenizer that does nothing."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """In the place of a tokenizer, for diffusion in pixels: an image is its own latent."""

    def latents(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return images

    def decode_latents(self, latents_BChw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, clamped to [-1, 1]."""
        return latents_BChw.clamp(-1, 1)
