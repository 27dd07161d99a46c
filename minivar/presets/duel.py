"""The head-to-head of chapter 08, and the rivals of chapter 12."""

from minivar.models import Config, DiTConfig, GPTConfig, MaskGITConfig, VARConfig
from minivar.presets.digits import BATCH, IMAGES
from minivar.sampling import (
    AnySamplingConfig,
    DiffusionSamplingConfig,
    MaskedSamplingConfig,
    RasterSamplingConfig,
    SamplingConfig,
)
from minivar.scales import ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig


def _duel(name: str, model: Config, sampling: AnySamplingConfig, **tokenizer_differs) -> Preset:
    """One side of the comparisons on digits: the same nets, images and optimiser for each."""
    nets = NetConfig(1, base_channels=16, multipliers=(2, 4), res_blocks=1, attention=False, groups=8, patch=2)
    common = {"image_size": 28, "nets": nets, "codebook_size": 512, "z_channels": 16}
    often = {
        "epochs": 1500 / (IMAGES * 4 // BATCH),
        "batch_size": BATCH,
        "base_lr": 8e-3,
        "final_lr_ratio": 0.01,
        "log_every": 25,
    }
    return Preset(
        name=name,
        dataset="digits",
        views=4,
        tokenizer=TokenizerConfig(**{**common, **tokenizer_differs}),
        tokenizer_train=TrainConfig(weight_decay=0.0, clip=1.0, checkpoint_every=250, **often),
        model=model,
        model_train=TrainConfig(checkpoint_every=250, **often),
        sampling=sampling,
        revive_below=0.5,  # with the default a twentieth the first scale uses 3 % of the codes, with this 16 %
    )


def duels() -> dict[str, Preset]:
    """Transformers of one million parameters each, over the same 7 x 7 latent grid; DiT also over 7 x 7 patches.

    Of "var" and "raster" the blocks are the same but for what is told of the class: by AdaLN in every block, and by
    the first token, or ("-prefix") by the first token alone, and the parameters of AdaLN are a deeper stack.
    """
    schedule = ScaleSchedule((1, 2, 4, 7))
    shape = {"width": 128, "heads": 4, "num_classes": 10}
    tokens = {"codebook_size": 512, **shape}
    ada, plain = {"depth": 3, "gamma_init": 0.1, "drop_path": 0.0125}, {"depth": 4, "drop_path": 0.0125}
    pyramid, single = {"code_dim": 16, "schedule": schedule}, {"quantizer": "single", "schedule": None, "code_dim": 8}
    grid = {"grid": (7, 7), **tokens}
    raster = {"dropout": 0.0, **grid}  # too short a run to need dropout; VAR has none
    of_var = {"style": "var", **raster}
    models: dict[str, tuple[Config, AnySamplingConfig, dict]] = {
        "var": (VARConfig(**ada, **pyramid, **tokens), SamplingConfig(0.0, 0, 0.0), pyramid),
        "var-prefix": (
            VARConfig(conditioning="prefix", mlp_ratio=4.99, **plain, **pyramid, **tokens),
            SamplingConfig(0.0, 0, 0.0),
            pyramid,
        ),
        "raster": (GPTConfig(conditioning="adaln", hidden=434, **ada, **of_var), RasterSamplingConfig(), single),
        "raster-prefix": (GPTConfig(hidden=580, **plain, **of_var), RasterSamplingConfig(), single),
        "llamagen": (GPTConfig(depth=4, hidden=392, **raster), RasterSamplingConfig(), single),
        "gpt2": (GPTConfig(depth=4, hidden=580, style="gpt2", **raster), RasterSamplingConfig(), single),
        "maskgit": (MaskGITConfig(mlp_ratio=3.39, **ada, **grid), MaskedSamplingConfig(), single),
        "dit": (
            DiTConfig(depth=3, mlp_ratio=4.22, channels=16, input_size=7, patch=1, **shape),
            DiffusionSamplingConfig(),
            pyramid,
        ),
        "dit-pixels": (
            DiTConfig(depth=3, mlp_ratio=4.22, channels=1, input_size=28, patch=4, latents=False, **shape),
            DiffusionSamplingConfig(),
            pyramid,
        ),
    }
    return {
        f"duel-{side}": _duel(f"duel-{side}", model, sampling, **tokenizer)
        for side, (model, sampling, tokenizer) in models.items()
    }
