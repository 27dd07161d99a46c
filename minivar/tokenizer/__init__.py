"""Image <-> tokens: the convolutional nets, the quantisers between them, the losses they learn by, token caches."""

from minivar.tokenizer.caches import CacheError, TokenCache, encode, write_cache
from minivar.tokenizer.discriminator import DiscriminatorConfig, PatchDiscriminator
from minivar.tokenizer.losses import LLAMAGEN_LOSS, PIXEL_LOSS, VAR_LOSS, LossConfig, LossError, TokenizerLoss
from minivar.tokenizer.multi_scale import MultiScaleQuantizer, phi_indices
from minivar.tokenizer.nets import Decoder, Encoder, NetConfig
from minivar.tokenizer.pixels import Pixels
from minivar.tokenizer.quantizer import Quantizer, QuantizerOutput
from minivar.tokenizer.single_scale import VectorQuantizer
from minivar.tokenizer.vqvae import VQVAE, TokenizerConfig, TokenizerOutput

__all__ = [
    "LLAMAGEN_LOSS",
    "PIXEL_LOSS",
    "VAR_LOSS",
    "VQVAE",
    "CacheError",
    "Decoder",
    "DiscriminatorConfig",
    "Encoder",
    "LossConfig",
    "LossError",
    "MultiScaleQuantizer",
    "NetConfig",
    "PatchDiscriminator",
    "Pixels",
    "Quantizer",
    "QuantizerOutput",
    "TokenCache",
    "TokenizerConfig",
    "TokenizerLoss",
    "TokenizerOutput",
    "VectorQuantizer",
    "encode",
    "phi_indices",
    "write_cache",
]
