"""VAR's published ImageNet runs."""

from minivar.models import VARConfig
from minivar.sampling import SamplingConfig
from minivar.scales import VAR_512
from minivar.tokenizer import VAR_LOSS, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

# The published recipes (arXiv 2404.02905, section 4, and the training commands in its code's README): depth -> what
# differs from TrainConfig's defaults, and gamma_init. ``images_at_a_time`` is not theirs, and changes no result: as
# many as the planner lets a GPU of 80 GB hold, with FSDP on eight of them.
PUBLISHED = {
    "var-d16": (16, TrainConfig(epochs=200, images_at_a_time=96), 1e-3),
    "var-d20": (20, TrainConfig(epochs=250, images_at_a_time=48), 1e-3),
    "var-d24": (24, TrainConfig(epochs=350, base_lr=8e-5, final_lr_ratio=0.01, images_at_a_time=32), 1e-4),
    "var-d30": (
        30,
        TrainConfig(
            epochs=350,
            batch_size=1024,
            base_lr=8e-5,
            final_lr_ratio=0.01,
            final_weight_decay=0.08,
            images_at_a_time=16,
        ),
        1e-5,
    ),
    "var-d36-s": (
        36,
        TrainConfig(epochs=350, base_lr=8e-5, final_lr_ratio=0.01, final_weight_decay=0.08, images_at_a_time=4),
        5e-6,
    ),
}


def published(name: str) -> Preset:
    """A published ImageNet run.

    The tokenizer's optimiser is that of the authors' single-scale trainer, the number of its epochs is a guess.
    """
    depth, var_train, gamma_init = PUBLISHED[name]
    large = name == "var-d36-s"
    tokenizer = TokenizerConfig(image_size=512, schedule=VAR_512) if large else TokenizerConfig()
    var = VARConfig.from_depth(depth, schedule=tokenizer.schedule, shared_adaln=large, gamma_init=gamma_init)
    tokenizer_train = TrainConfig(
        epochs=20,
        batch_size=768,
        base_lr=1e-4,
        betas=(0.5, 0.9),
        weight_decay=0.0,
        images_at_a_time=8 if large else 32,
    )
    return Preset(name, "folder", 1, tokenizer, tokenizer_train, var, var_train, SamplingConfig(), VAR_LOSS)
