"""The ladder of chapter 11: eight transformers of one shape, from 60 thousand to 8.2 million parameters."""

from minivar.models import VARConfig
from minivar.presets.duel import BATCH, DIGITS
from minivar.sampling import SamplingConfig
from minivar.tokenizer import TokenizerConfig
from minivar.training.config import Preset, TrainConfig

DEPTHS = (2, 3, 4, 5, 6, 8, 10, 12)
IMAGES = 64_000  # of the training split: each is seen once


def rung(depth: int) -> Preset:
    """The published width rule, D = 64 d and H = d, at a quarter of the width: D = 16 d, hence N = 18 d D^2."""
    world = DIGITS  # its tokenizer, schedule and number of codes, trained on quartets
    often = {"batch_size": BATCH, "final_lr_ratio": 0.01, "log_every": 25, "validate_images": 2_000}
    model = VARConfig.from_depth(
        depth, width=16 * depth, num_classes=world.classes, codebook_size=world.codes, code_dim=16,
        schedule=world.schedule, gamma_init=0.1, drop_path=0.0,
    )  # fmt: skip
    tokenizer = TokenizerConfig(
        image_size=world.image_size, nets=world.nets, codebook_size=world.codes, code_dim=16, z_channels=16,
        schedule=world.schedule,
    )  # fmt: skip
    for_pixels = {"epochs": 1, "base_lr": 8e-3, "weight_decay": 0.0, "clip": 1.0}
    return Preset(
        name=f"ladder-{depth}",
        dataset="quartets",
        views=1,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(**for_pixels, **often),
        model=model,
        model_train=TrainConfig(epochs=1, base_lr=32e-3, validate_every=100, **often),
        sampling=SamplingConfig(0.0, 0, 0.0),
        revive_below=0.5,
    )


def ladder() -> dict[str, Preset]:
    """ladder-2 to ladder-12; ``experiments/ladder.py`` finds the learning rates."""
    return {f"ladder-{depth}": rung(depth) for depth in DEPTHS}
