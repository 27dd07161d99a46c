"""Runs on the embedded digits."""

from minivar.models import VARConfig
from minivar.sampling import SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

IMAGES = 7_200  # of the training split
BATCH = 64


def digits(
    name: str, tokenizer_steps: int, var_steps: int, views: int = 1, validate_every: int | None = None
) -> Preset:
    """The digits runs differ in how many steps they train, on how many views, and how often they validate."""
    steps_an_epoch = IMAGES * views // BATCH
    schedule = ScaleSchedule((1, 2, 3, 4))
    nets = NetConfig(
        image_channels=1,
        base_channels=16,
        multipliers=(1, 2, 4),
        res_blocks=1,
        attention=False,
        groups=8,
        patch=2,  # half the resolution before the first convolution: that is where the time would go
    )
    tokenizer = TokenizerConfig(image_size=28, nets=nets, codebook_size=512, code_dim=16, schedule=schedule)
    var = VARConfig.from_depth(3, num_classes=10, codebook_size=512, code_dim=16, schedule=schedule, gamma_init=0.1)
    often = {"log_every": 25, "checkpoint_every": 250, "validate_every": validate_every}
    often |= {"batch_size": BATCH, "base_lr": 8e-3, "final_lr_ratio": 0.01}
    return Preset(
        name=name,
        dataset="digits",
        views=views,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(epochs=tokenizer_steps / steps_an_epoch, weight_decay=0.0, clip=1.0, **often),
        model=var,
        model_train=TrainConfig(epochs=var_steps / steps_an_epoch, **often),
        sampling=SamplingConfig(cfg=1.0, top_k=0, top_p=0.0),
    )
