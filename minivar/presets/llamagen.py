"""LlamaGen's published ImageNet runs (arXiv 2406.06525; its code, FoundationVision/LlamaGen)."""

from minivar.models import GPTConfig
from minivar.sampling import RasterSamplingConfig
from minivar.tokenizer import LLAMAGEN_LOSS, NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

# LlamaGen's transformers (arXiv 2406.06525, section 2.3): layers, width, heads, then batch and learning rate of the
# training, and its epochs at 256 pixels (Table 8); at 384 pixels all have 300. The last number is not theirs: how
# many images of 256 pixels the planner lets a GPU of 80 GB hold at a time, with FSDP on eight of them.
SIZES = {
    "b": (12, 768, 12, 256, 1e-4, 300, 256),
    "l": (24, 1024, 16, 256, 1e-4, 300, 128),
    "xl": (36, 1280, 20, 256, 2e-4, 50, 64),
    "xxl": (48, 1536, 24, 512, 2e-4, 50, 32),
    "3b": (24, 3200, 32, 512, 2e-4, 50, 32),
}


def llamagen(size: str, pixels: int) -> Preset:
    """A published LlamaGen run. Its learning rate is constant; FID at 384 pixels falls with guidance 1.65 to 2.25.

    The tokenizer learns from windows of several sizes, mirrored half the time, by Adam without weight decay; the
    transformer from ten fixed crops of each image.

    DEVIATION: at 384 pixels the tokenizer learns at 384 too, since a preset reads images of one size. The published
    one learned at 256 and serves all sizes.
    """
    depth, width, heads, batch, lr, epochs, at_a_time = SIZES[size]
    small = pixels == 256
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
        epochs=40,
        batch_size=128,
        base_lr=2e-4,
        weight_decay=0.0,
        warmup=0.0,
        final_lr_ratio=1.0,
        clip=1.0,
        images_at_a_time=32 if small else 16,
    )
    model_train = TrainConfig(
        epochs=epochs if small else 300,
        batch_size=batch,
        base_lr=lr * 256 / batch,
        warmup=0.0,
        final_lr_ratio=1.0,
        clip=1.0,
        images_at_a_time=at_a_time if small else at_a_time // 2,
    )
    return Preset(
        name=f"llamagen-{size}-{pixels}",
        dataset="folder",
        views=1,
        tokenizer=tokenizer,
        tokenizer_train=tokenizer_train,
        model=GPTConfig(depth, width, heads, grid=(pixels // 16, pixels // 16)),
        model_train=model_train,
        sampling=RasterSamplingConfig(cfg=2.0),
        tokenizer_loss=LLAMAGEN_LOSS,
        tokenizer_crop="zoom",
        model_crop="ten",
    )
