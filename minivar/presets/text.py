"""Runs on the emoji world that draw from captions, in both orders, and the class-conditional one beside them."""

from minivar.models import Config, GPTConfig, TextVARConfig, VARConfig
from minivar.sampling import AnySamplingConfig, RasterSamplingConfig, SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig

IMAGES, VIEWS, BATCH = 8_775, 8, 64  # of the training split, without mirror images
STEPS = (4000, 9000)  # of tokenizer and transformer
SCHEDULE, CODES, WIDTH = ScaleSchedule((1, 2, 4, 8)), 1024, 128
PYRAMID = {"code_dim": 16, "schedule": SCHEDULE}
SINGLE = {"quantizer": "single", "schedule": None, "code_dim": 8}


def sides() -> dict[str, tuple[Config, AnySamplingConfig, dict]]:
    """Model, sampling and quantiser of each preset; all have about as many parameters, 2.0 million.

    A block with cross-attention has an MLP of half the width for it; one of GPT has no AdaLN, and there are more.
    """
    shape = {"width": WIDTH, "heads": 4, "codebook_size": CODES}
    captions = {"caption_tokens": 12, "caption_dim": 64}
    of_var = {"depth": 6, "gamma_init": 0.1, "drop_path": 0.1, **shape, **PYRAMID}
    var = TextVARConfig(dropout=0.1, **captions, **of_var)
    cross = TextVARConfig(dropout=0.1, reads="cross", mlp_ratio=2.0, **captions, **of_var)
    gpt = GPTConfig(depth=9, hidden=320, grid=SCHEDULE.final_grid, num_classes=0, dropout=0.1, **captions, **shape)
    next_scale, in_raster = SamplingConfig(cfg=2.0, top_k=0, top_p=0.9), RasterSamplingConfig(cfg=2.0, top_p=0.9)
    return {
        "text-emoji-var": (var, next_scale, PYRAMID),
        "text-emoji-var-cross": (cross, next_scale, PYRAMID),
        "text-emoji-gpt": (gpt, in_raster, SINGLE),
        "colour-var": (VARConfig(num_classes=72, **of_var), next_scale, PYRAMID),
    }


def text_emoji() -> dict[str, Preset]:
    """By name; ``experiments/colour.py`` tries other settings, and says what came of them."""
    nets = NetConfig(base_channels=32, multipliers=(1, 2), res_blocks=1, attention=False, groups=8, patch=2)
    common = {"image_size": 32, "nets": nets, "codebook_size": CODES, "z_channels": 16}
    epochs = [steps / (IMAGES * VIEWS // BATCH) for steps in STEPS]
    often = {"batch_size": BATCH, "base_lr": 8e-3, "final_lr_ratio": 0.01, "log_every": 50, "checkpoint_every": 250}
    return {
        name: Preset(
            name=name,
            dataset="emoji-32",
            views=VIEWS,
            tokenizer=TokenizerConfig(**common, **quantiser),
            tokenizer_train=TrainConfig(epochs=epochs[0], weight_decay=0.0, clip=1.0, **often),
            model=model,
            model_train=TrainConfig(epochs=epochs[1], ema=0.999, keep_best=True, validate_images=1156, **often),
            sampling=sampling,
            revive_below=0.5,
        )
        for name, (model, sampling, quantiser) in sides().items()
    }
