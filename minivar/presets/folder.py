"""Every step of a full run in miniature, on a folder of small pictures (chapter 13)."""

from minivar.models import VARConfig
from minivar.sampling import SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import DiscriminatorConfig, LossConfig, NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig


def folder_smoke() -> Preset:
    """Every step of a full run in a minute, on a folder of small pictures (chapter 13); nothing good comes out."""
    schedule = ScaleSchedule((1, 2, 4, 8))
    nets = NetConfig(base_channels=16, multipliers=(1, 2), res_blocks=1, attention=False, groups=8, patch=2)
    tokenizer = TokenizerConfig(image_size=32, nets=nets, codebook_size=256, code_dim=16, schedule=schedule)
    shape = {"num_classes": 9, "codebook_size": 256, "code_dim": 16, "schedule": schedule}
    often = {"batch_size": 48, "base_lr": 8e-3, "final_lr_ratio": 0.01, "log_every": 10, "checkpoint_every": 50}
    judge = DiscriminatorConfig(base_channels=16, layers=2)
    return Preset(
        name="folder-smoke",
        dataset="folder",
        views=1,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(epochs=6, betas=(0.5, 0.9), weight_decay=0.0, clip=1.0, **often),
        model=VARConfig.from_depth(2, gamma_init=0.1, **shape),
        model_train=TrainConfig(epochs=5, **often),
        sampling=SamplingConfig(cfg=1.5, top_k=0, top_p=0.0),
        tokenizer_loss=LossConfig(perceptual=0.0, gan_start=0.5, discriminator=judge),
    )
