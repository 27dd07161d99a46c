"""Presets: all numbers of a run, as frozen dataclasses that can be read like a table.

A preset says what to train on, the shapes of tokenizer and transformer, how each is optimised, and how samples are
drawn. The small case and the full case are the same code with other numbers:

================ ========================================= ======================= ================================
preset           what it is                                hardware, time          result
================ ========================================= ======================= ================================
digits-smoke     the default of chapter 06                 2 CPU cores, 2 minutes  accuracy .98, Frechet ratio 6
digits           what ``make run`` trains                  2 CPU cores, 10 minutes accuracy .992, Frechet ratio 2.2
digits-long      shipped in ``data/checkpoints/digits``    1 CPU core, 50 minutes  accuracy .991, Frechet ratio 1.2
emoji            shipped in ``data/checkpoints/emoji``     2 CPU cores, 1.8 hours  scores.json beside it
folder-smoke     every step of chapter 13, in miniature    2 CPU cores, 1 minute   nothing to look at
duel-var         1.0 M, for the head-to-head of chapter 08 1 CPU core, 15 minutes  data/results/head_to_head.json
duel-llamagen    the same in raster order, Llama style     1 CPU core, 15 minutes  data/results/head_to_head.json
duel-gpt2        the same in raster order, GPT-2 style     1 CPU core, 15 minutes  data/results/head_to_head.json
var-d16          ImageNet 256 x 256, 310 M parameters      16 A100, 2.5 days       FID 3.30 (paper, not run here)
var-d20          the same, 600 M                           not published           FID 2.57 (paper, not run here)
var-d24          the same, 1.0 B                           not published           FID 2.09 (paper, not run here)
var-d30          the same, 2.0 B                           not published           FID 1.92 (paper, not run here)
var-d36-s        ImageNet 512 x 512, 2.4 B, shared AdaLN   not published           FID 2.63 (paper, not run here)
llamagen-b-384   LlamaGen, raster order, 384 pixels, 111 M 8 GPUs, 1 day           FID 6.09 (paper, not run here)
llamagen-l-384   the same, 343 M                           8 GPUs, 2 days          FID 3.07 (paper, not run here)
llamagen-xl-384  the same, 775 M                           16 GPUs, 3 days         FID 2.62 (paper, not run here)
llamagen-xxl-384 the same, 1.4 B                           32 GPUs, 4 days         FID 2.34 (paper, not run here)
llamagen-3b-384  the same, 3.1 B                           32 GPUs, 5 days         FID 2.18 (paper, not run here)
================ ========================================= ======================= ================================

Each LlamaGen size also has a preset for 256 pixels, llamagen-b-256 and so on.
For the digits, accuracy is the share of samples that the shipped classifier recognises as their class, and the
Frechet ratio is explained in ``metrics.judge_digits``; 2,000 samples, for digits-smoke 400.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from minivar.losses import LLAMAGEN_LOSS, PIXEL_LOSS, VAR_LOSS, LossConfig
from minivar.nets import DiscriminatorConfig, NetConfig
from minivar.raster import GPTConfig
from minivar.scales import VAR_512, ScaleSchedule
from minivar.tokenizer import TokenizerConfig
from minivar.train import TrainConfig
from minivar.transformer import VARConfig


class PresetError(ValueError):
    """An unknown preset, or an override that does not fit."""


@dataclass(frozen=True)
class SamplingConfig:
    """Guidance at the last scale and the filters on the codes. Defaults: the FID protocol of the paper."""

    cfg: float = 1.5
    top_k: int = 900
    top_p: float = 0.96


@dataclass(frozen=True)
class RasterSamplingConfig:
    """Guidance (1: none), temperature and filters of token by token sampling. Defaults: off."""

    cfg: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Preset:
    """One run, from data to samples."""

    name: str
    dataset: str  # a name that data.load knows
    views: int  # of each training image; above 1, data.jittered adds slightly turned and resized ones
    tokenizer: TokenizerConfig
    tokenizer_train: TrainConfig
    model: VARConfig | GPTConfig
    model_train: TrainConfig
    sampling: SamplingConfig | RasterSamplingConfig
    tokenizer_loss: LossConfig = PIXEL_LOSS


def _digits(name: str, tokenizer_epochs: float, var_epochs: float, views: int = 1) -> Preset:
    """The digits runs differ in how long they train, and on how many views of each image."""
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
    often = {"batch_size": 64, "base_lr": 8e-3, "final_lr_ratio": 0.01, "log_every": 25, "checkpoint_every": 250}
    return Preset(
        name=name,
        dataset="digits",
        views=views,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(epochs=tokenizer_epochs, weight_decay=0.0, clip=1.0, **often),
        model=var,
        model_train=TrainConfig(epochs=var_epochs, **often),
        sampling=SamplingConfig(cfg=1.0, top_k=0, top_p=0.0),
    )


def _emoji(name: str, tokenizer_epochs: float, var_epochs: float) -> Preset:
    """Colour, 32 x 32; the sides of the pyramid double, as in the paper's appendix D. Epochs of 108,624 images."""
    schedule = ScaleSchedule((1, 2, 4, 8))
    nets = NetConfig(base_channels=32, multipliers=(1, 2), res_blocks=1, attention=False, groups=8, patch=2)
    tokenizer = TokenizerConfig(image_size=32, nets=nets, codebook_size=1024, code_dim=16, schedule=schedule)
    shape = {"num_classes": 223, "codebook_size": 1024, "code_dim": 16, "schedule": schedule}
    var = VARConfig.from_depth(3, gamma_init=0.1, **shape)
    often = {"final_lr_ratio": 0.01, "log_every": 50, "checkpoint_every": 250}
    pixels = TrainConfig(epochs=tokenizer_epochs, batch_size=64, base_lr=8e-3, weight_decay=0.0, clip=1.0, **often)
    return Preset(
        name=name,
        dataset="emoji",
        views=16,
        tokenizer=tokenizer,
        tokenizer_train=pixels,
        model=var,
        model_train=TrainConfig(epochs=var_epochs, batch_size=32, base_lr=24e-3, **often),
        sampling=SamplingConfig(cfg=1.5, top_k=0, top_p=0.7),
    )


def _folder_smoke() -> Preset:
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


# The published recipes (REFERENCE section 2): depth -> what differs from TrainConfig's defaults, and gamma_init.
_PUBLISHED = {
    "var-d16": (16, TrainConfig(epochs=200), 1e-3),
    "var-d20": (20, TrainConfig(epochs=250), 1e-3),
    "var-d24": (24, TrainConfig(epochs=350, base_lr=8e-5, final_lr_ratio=0.01), 1e-4),
    "var-d30": (
        30,
        TrainConfig(epochs=350, batch_size=1024, base_lr=8e-5, final_lr_ratio=0.01, final_weight_decay=0.08),
        1e-5,
    ),
    "var-d36-s": (
        36,
        TrainConfig(epochs=350, base_lr=8e-5, final_lr_ratio=0.01, final_weight_decay=0.08),
        5e-6,
    ),
}


def _published(name: str) -> Preset:
    """A published ImageNet run.

    The tokenizer's optimiser is that of the authors' single-scale trainer, the number of its epochs is a guess.
    """
    depth, var_train, gamma_init = _PUBLISHED[name]
    large = name == "var-d36-s"
    tokenizer = TokenizerConfig(image_size=512, schedule=VAR_512) if large else TokenizerConfig()
    var = VARConfig.from_depth(depth, schedule=tokenizer.schedule, shared_adaln=large, gamma_init=gamma_init)
    tokenizer_train = TrainConfig(
        epochs=20,
        batch_size=768,
        base_lr=1e-4,
        betas=(0.5, 0.9),
        weight_decay=0.0,
        accumulate=4,  # the activations of 96 images, an eighth of the batch, would fill a GPU of 80 GB
    )
    return Preset(name, "folder", 1, tokenizer, tokenizer_train, var, var_train, SamplingConfig(), VAR_LOSS)


def _duel(name: str, model: VARConfig | GPTConfig, **tokenizer_differs) -> Preset:
    """One side of the head-to-head on digits (chapter 08): the same nets, images and optimiser for each."""
    nets = NetConfig(1, base_channels=16, multipliers=(2, 4), res_blocks=1, attention=False, groups=8, patch=2)
    common = {"image_size": 28, "nets": nets, "codebook_size": 512, "z_channels": 16}
    often = {"epochs": 3, "batch_size": 64, "base_lr": 8e-3, "final_lr_ratio": 0.01, "log_every": 25}
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


def _duels() -> dict[str, Preset]:
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


# LlamaGen's transformers (REFERENCE section 3): layers, width, heads, then batch and learning rate of the training.
_LLAMAGEN = {
    "b": (12, 768, 12, 256, 1e-4),
    "l": (24, 1024, 16, 256, 1e-4),
    "xl": (36, 1280, 20, 256, 2e-4),
    "xxl": (48, 1536, 24, 512, 2e-4),
    "3b": (24, 3200, 32, 512, 2e-4),
}


def _llamagen(size: str, pixels: int) -> Preset:
    """A published LlamaGen run. Its learning rate is constant; FID at 384 pixels falls with guidance 1.65 to 2.25."""
    depth, width, heads, batch, lr = _LLAMAGEN[size]
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
        epochs=40, batch_size=128, base_lr=2e-4, weight_decay=0.05, warmup=0.0, final_lr_ratio=1.0, clip=1.0
    )
    model_train = TrainConfig(
        epochs=300, batch_size=batch, base_lr=lr * 256 / batch, warmup=0.0, final_lr_ratio=1.0, clip=1.0
    )
    model = GPTConfig(depth, width, heads, grid=(pixels // 16, pixels // 16))
    sampling, name = RasterSamplingConfig(cfg=2.0), f"llamagen-{size}-{pixels}"
    return Preset(name, "folder", 1, tokenizer, tokenizer_train, model, model_train, sampling, LLAMAGEN_LOSS)


PRESETS: dict[str, Preset] = {
    "digits-smoke": _digits("digits-smoke", 3, 3),  # epochs of 8,000 images
    "digits": _digits("digits", 3, 5, views=4),  # epochs of 32,000
    "digits-long": _digits("digits-long", 2, 5, views=16),  # epochs of 128,000
    "emoji": _emoji("emoji", 2, 8),
    "folder-smoke": _folder_smoke(),
    **_duels(),
    **{name: _published(name) for name in _PUBLISHED},
    **{f"llamagen-{size}-{pixels}": _llamagen(size, pixels) for size in _LLAMAGEN for pixels in (256, 384)},
}


def get(name: str, overrides: Mapping[str, object] | None = None) -> Preset:
    """The preset ``name`` with ``overrides``, dotted field names to values: ``{"model_train.epochs": 2}``.

    Raises ``PresetError`` for an unknown preset or field, or a value of the wrong type.
    """
    if name not in PRESETS:
        raise PresetError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    for path, value in (overrides or {}).items():
        preset = _replace(preset, path.split("."), value, path)
    return preset


def parse_value(text: str) -> object:
    """Text from a command line -> bool, None, int, float or string."""
    if text in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _replace(config, fields: list[str], value: object, path: str):
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if fields[0] not in names:
        close = difflib.get_close_matches(fields[0], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PresetError(f"No field {path!r} to override: expected one of {', '.join(names)}{hint}")
    old = getattr(config, fields[0])
    if len(fields) > 1:
        return dataclasses.replace(config, **{fields[0]: _replace(old, fields[1:], value, path)})
    hint = typing.get_type_hints(type(config))[fields[0]]
    expected = hint if hint in (bool, int, float, str) else type(old)
    if expected is float and type(value) is int:
        value = float(value)
    if old is not None and type(value) is not expected:
        raise PresetError(f"{path} must be of type {expected.__name__}; got {value!r}.")
    return dataclasses.replace(config, **{fields[0]: value})
