"""The head-to-head of chapter 08."""

from minivar.models import GPTConfig, VARConfig
from minivar.presets.digits import BATCH, IMAGES
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig


def _duel(name: str, model: VARConfig | GPTConfig, **tokenizer_differs) -> Preset:
    """One side of the head-to-head on digits (chapter 08): the same nets, images and optimiser for each."""
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
        sampling=RasterSamplingConfig() if isinstance(model, GPTConfig) else SamplingConfig(0.0, 0, 0.0),
    )


def duels() -> dict[str, Preset]:
    """Three transformers of one million parameters each, over the same 7 x 7 latent grid."""
    schedule = ScaleSchedule((1, 2, 4, 7))
    shape = {"width": 128, "heads": 4, "num_classes": 10, "codebook_size": 512}
    var = VARConfig(depth=3, code_dim=16, schedule=schedule, gamma_init=0.1, drop_path=0.0125, **shape)
    raster = {"depth": 4, "grid": (7, 7), "dropout": 0.0, **shape}  # too short a run to need dropout; VAR has none
    llama, gpt2 = GPTConfig(hidden=392, **raster), GPTConfig(hidden=580, style="gpt2", **raster)
    single = {"quantizer": "single", "schedule": None, "code_dim": 8}
    return {
        "duel-var": _duel("duel-var", var, code_dim=16, schedule=schedule),
        "duel-llamagen": _duel("duel-llamagen", llama, **single),
        "duel-gpt2": _duel("duel-gpt2", gpt2, **single),
    }
