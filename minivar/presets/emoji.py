"""The run on the embedded emoji, in colour."""

from minivar.models import VARConfig
from minivar.sampling import SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

VIEWS = 16
IMAGES = 6_013 * VIEWS  # of the training split


def emoji(name: str, tokenizer_steps: int, var_steps: int) -> Preset:
    """Colour, 32 x 32; the sides of the pyramid double, as in the paper's appendix D."""
    schedule = ScaleSchedule((1, 2, 4, 8))
    nets = NetConfig(base_channels=32, multipliers=(1, 2), res_blocks=1, attention=False, groups=8, patch=2)
    tokenizer = TokenizerConfig(image_size=32, nets=nets, codebook_size=1024, code_dim=16, schedule=schedule)
    shape = {"num_classes": 223, "codebook_size": 1024, "code_dim": 16, "schedule": schedule}
    var = VARConfig.from_depth(3, gamma_init=0.1, **shape)
    often = {"final_lr_ratio": 0.01, "log_every": 50, "checkpoint_every": 250}
    epochs = {"tokenizer": tokenizer_steps / (IMAGES // 64), "var": var_steps / (IMAGES // 32)}
    pixels = {"batch_size": 64, "base_lr": 8e-3, "weight_decay": 0.0, "clip": 1.0}
    return Preset(
        name=name,
        dataset="emoji",
        views=VIEWS,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(epochs=epochs["tokenizer"], **pixels, **often),
        model=var,
        model_train=TrainConfig(epochs=epochs["var"], batch_size=32, base_lr=24e-3, **often),
        sampling=SamplingConfig(cfg=1.5, top_k=0, top_p=0.7),
    )
