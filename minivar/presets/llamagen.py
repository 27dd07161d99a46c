"""LlamaGen's published ImageNet runs."""

from minivar.models import GPTConfig
from minivar.sampling import RasterSamplingConfig
from minivar.tokenizer import LLAMAGEN_LOSS, NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

# LlamaGen's transformers (arXiv 2406.06525, section 2.3): layers, width, heads, then batch and learning rate of the
# training.
SIZES = {
    "b": (12, 768, 12, 256, 1e-4),
    "l": (24, 1024, 16, 256, 1e-4),
    "xl": (36, 1280, 20, 256, 2e-4),
    "xxl": (48, 1536, 24, 512, 2e-4),
    "3b": (24, 3200, 32, 512, 2e-4),
}


def llamagen(size: str, pixels: int) -> Preset:
    """A published LlamaGen run. Its learning rate is constant; FID at 384 pixels falls with guidance 1.65 to 2.25."""
    depth, width, heads, batch, lr = SIZES[size]
    tokenizer = TokenizerConfig(
        image_size=pixels,
        nets=NetConfig(base_channels=128, multipliers=(1, 1, 2, 2, 4)),
        codebook_size=16384,
        code_dim=8,
        quantizer="single",
        z_channels=256,
        quant_conv_kernel=1,
        schedule=None,
    )
    tokenizer_train = TrainConfig(
        epochs=40, batch_size=128, base_lr=2e-4, weight_decay=0.05, warmup=0.0, final_lr_ratio=1.0, clip=1.0
    )
    model_train = TrainConfig(
        epochs=300, batch_size=batch, base_lr=lr * 256 / batch, warmup=0.0, final_lr_ratio=1.0, clip=1.0
    )
    model = GPTConfig(depth, width, heads, grid=(pixels // 16, pixels // 16))
    sampling, name = RasterSamplingConfig(cfg=2.0), f"llamagen-{size}-{pixels}"
    return Preset(name, "folder", 1, tokenizer, tokenizer_train, model, model_train, sampling, LLAMAGEN_LOSS)
