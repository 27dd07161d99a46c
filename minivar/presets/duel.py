"""The head-to-head of chapter 08a, and the rivals of chapter 12, on digits and on emoji."""

from dataclasses import dataclass

from minivar.models import Config, DiTConfig, GPTConfig, MaskGITConfig, VARConfig
from minivar.presets.digits import IMAGES
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

BATCH = 64


@dataclass(frozen=True)
class World:
    """What all sides share, and the widths of their MLPs that give all of them as many parameters."""

    prefix: str
    dataset: str
    images: int  # of the training split
    views: int
    image_size: int
    nets: NetConfig
    grid: int  # side of the latent grid
    schedule: ScaleSchedule
    codes: int
    classes: int
    depths: tuple[int, int]  # with AdaLN, without
    hidden: dict[str, int]  # of the MLPs, by side
    steps: tuple[int, int]  # of tokenizer and transformer
    keep_best: bool = False


DIGITS = World(
    prefix="duel-",
    dataset="digits",
    images=IMAGES,
    views=4,
    image_size=28,
    nets=NetConfig(1, base_channels=16, multipliers=(2, 4), res_blocks=1, attention=False, groups=8, patch=2),
    grid=7,
    schedule=ScaleSchedule((1, 2, 4, 7)),
    codes=512,
    classes=10,
    depths=(3, 4),
    hidden={
        "var": 512, "var-prefix": 639, "raster": 434, "raster-prefix": 580, "llamagen": 392, "gpt2": 580,
        "maskgit": 434, "dit": 540, "dit-pixels": 540,
    },
    steps=(1500, 1500),
)  # fmt: skip
EMOJI = World(
    prefix="duel-emoji-",
    dataset="emoji-32",
    images=8_775,
    views=8,
    image_size=32,
    nets=NetConfig(base_channels=32, multipliers=(1, 2), res_blocks=1, attention=False, groups=8, patch=2),
    grid=8,
    schedule=ScaleSchedule((1, 2, 4, 8)),
    codes=1024,
    classes=72,
    depths=(4, 6),
    hidden={
        "var": 512, "var-prefix": 532, "raster": 390, "raster-prefix": 450, "llamagen": 308, "gpt2": 451,
        "maskgit": 390, "dit": 599, "dit-pixels": 587,
    },
    steps=(3000, 3000),
    keep_best=True,  # 1.4 million parameters begin to know the drawings by heart
)  # fmt: skip


def sides(world: World) -> dict[str, tuple[Config, AnySamplingConfig, dict]]:
    """Model, sampling and quantiser of every side.

    Of "var" and "raster" the blocks are the same but for what is told of the class: by AdaLN in every block, and by
    the first token, or ("-prefix") by the first token alone, and the parameters of AdaLN are a deeper stack.
    """
    width, grid, size = 128, (world.grid, world.grid), world.image_size
    shape = {"width": width, "heads": 4, "num_classes": world.classes}
    tokens = {"codebook_size": world.codes, **shape}
    ada = {"depth": world.depths[0], "gamma_init": 0.1, "drop_path": 0.0125}
    plain = {"depth": world.depths[1], "drop_path": 0.0125}
    pyramid = {"code_dim": 16, "schedule": world.schedule}
    single = {"quantizer": "single", "schedule": None, "code_dim": 8}
    raster = {"dropout": 0.0, "grid": grid, **tokens}  # too short a run to need dropout; VAR has none
    of_var = {"style": "var", **raster}
    diffusion = {"depth": world.depths[0], **shape}
    ratio = {side: {"mlp_ratio": hidden / width} for side, hidden in world.hidden.items()}
    hidden = {side: {"hidden": number} for side, number in world.hidden.items()}
    next_scale, in_raster, by_diffusion = (
        SamplingConfig(0.0, 0, 0.0),
        RasterSamplingConfig(),
        DiffusionSamplingConfig(),
    )
    prefix = VARConfig(conditioning="prefix", **ratio["var-prefix"], **plain, **pyramid, **tokens)
    gpt2 = GPTConfig(depth=plain["depth"], style="gpt2", **hidden["gpt2"], **raster)
    latents = DiTConfig(channels=16, input_size=world.grid, patch=1, **ratio["dit"], **diffusion)
    pixels = {"channels": world.nets.image_channels, "input_size": size, "patch": size // world.grid}
    return {
        "var": (VARConfig(**ratio["var"], **ada, **pyramid, **tokens), next_scale, pyramid),
        "var-prefix": (prefix, next_scale, pyramid),
        "raster": (GPTConfig(conditioning="adaln", **hidden["raster"], **ada, **of_var), in_raster, single),
        "raster-prefix": (GPTConfig(**hidden["raster-prefix"], **plain, **of_var), in_raster, single),
        "llamagen": (GPTConfig(depth=plain["depth"], **hidden["llamagen"], **raster), in_raster, single),
        "gpt2": (gpt2, in_raster, single),
        "maskgit": (MaskGITConfig(**ratio["maskgit"], **ada, grid=grid, **tokens), MaskedSamplingConfig(), single),
        "dit": (latents, by_diffusion, pyramid),
        "dit-pixels": (DiTConfig(latents=False, **ratio["dit-pixels"], **pixels, **diffusion), by_diffusion, pyramid),
    }


def duels() -> dict[str, Preset]:
    """Transformers of one million parameters each on the digits, of 1.4 million on the emoji; one training loop."""
    found = {}
    for world in (DIGITS, EMOJI):
        steps_an_epoch = world.images * world.views // BATCH
        epochs = [steps / steps_an_epoch for steps in world.steps]
        often = {
            "batch_size": BATCH,
            "base_lr": 8e-3,
            "final_lr_ratio": 0.01,
            "log_every": 25,
            "checkpoint_every": 250,
        }
        common = {"image_size": world.image_size, "nets": world.nets, "codebook_size": world.codes, "z_channels": 16}
        for side, (model, sampling, quantiser) in sides(world).items():
            name = f"{world.prefix}{side}"
            found[name] = Preset(
                name=name,
                dataset=world.dataset,
                views=world.views,
                tokenizer=TokenizerConfig(**common, **quantiser),
                tokenizer_train=TrainConfig(epochs=epochs[0], weight_decay=0.0, clip=1.0, **often),
                model=model,
                model_train=TrainConfig(epochs=epochs[1], keep_best=world.keep_best, **often),
                sampling=sampling,
                revive_below=0.5,  # with the default, a twentieth, the first scale uses 3 % of the codes, so 16 %
            )
    return found
