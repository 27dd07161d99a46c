"""What a training consists of, as tables: the optimisation of one model, and a whole run of two."""

import math
from dataclasses import dataclass

from minivar.checks import check
from minivar.data import CROPS
from minivar.models import Config, GPTConfig
from minivar.precision import PRECISIONS
from minivar.sampling import SETTINGS, AnySamplingConfig
from minivar.tokenizer import PIXEL_LOSS, LossConfig, TokenizerConfig


class TrainingError(ValueError):
    """A run that cannot start or cannot go on."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of one model. Defaults: VAR's published transformer recipe (arXiv 2404.02905, section 4)."""

    epochs: float = 200
    batch_size: int = 768
    base_lr: float = 1e-4  # per 256 images of batch
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    final_weight_decay: float | None = None  # reached along a cosine; None: constant
    warmup: float = 1 / 50  # share of the run
    warmup_start: float = 0.005  # of the learning rate
    hold: float = 0.05  # share of the run after warm-up at full learning rate, before the linear decay
    final_lr_ratio: float = 0.1
    clip: float = 2.0  # gradient norm
    ema: float = 0.0  # decay of averaged weights, which then are the result; 0: none
    accumulate: int = 1  # parts that each rank's share of a batch is cut into, one backward pass each
    images_at_a_time: int | None = None  # on a rank, at most: ``accumulation`` cuts larger parts into smaller ones
    precision: str = "bf16"  # bf16, fp16, tf32 or float32 (``minivar.precision``); a CPU trains in float32
    recompute: bool = False  # activations of the blocks in the backward pass: less memory, a third more time
    compile: bool = False  # torch.compile
    seed: int = 0
    log_every: int = 50  # steps
    checkpoint_every: int = 500  # steps, a multiple of log_every
    validate_every: int | None = None  # steps, a multiple of log_every; None: at every checkpoint
    validate_images: int = 10_000  # held-out images for that, at most, and always the same
    keep_best: bool = False  # the weights with the lowest held-out loss too, beside the last

    def __post_init__(self) -> None:
        check(
            self,
            TrainingError,
            epochs="(0, 1e6]",
            batch_size="[1, 1e9]",
            base_lr="(0, inf)",
            betas="[0, 1)",
            weight_decay="[0, inf)",
            final_weight_decay="[0, inf)",
            warmup="[0, 1]",
            warmup_start="(0, 1]",
            hold="[0, 1)",
            final_lr_ratio="[0, 1]",
            clip="(0, inf)",
            ema="[0, 1)",
            accumulate="[1, inf)",
            images_at_a_time="[1, inf)",
            precision=tuple(PRECISIONS),
            seed="[0, 4294967295]",
            log_every="[1, inf)",
            checkpoint_every="[1, inf)",
            validate_every="[1, inf)",
            validate_images="[1, inf)",
        )
        for name in ("checkpoint_every", "validate_every"):
            if (getattr(self, name) or 0) % self.log_every:
                raise TrainingError(
                    f"{name} must be a multiple of log_every ({self.log_every}); got {getattr(self, name)}."
                )


# What leaves the mathematics of a training as it is: a run goes on with other values of these.
FREE_TO_CHANGE = (
    "accumulate",
    "images_at_a_time",
    "recompute",
    "compile",
    "log_every",
    "checkpoint_every",
    "validate_every",
    "validate_images",
    "keep_best",
)


def accumulation(config: TrainConfig, ranks: int) -> int:
    """Equal parts that each of ``ranks`` cuts its share of a batch into, one backward pass each.

    As many as ``accumulate``, or the first multiple of that whose parts have at most ``images_at_a_time`` images.
    Raises ``TrainingError``, with the nearest numbers that would do, where the batch cannot be shared out evenly.
    """
    part, left = divmod(config.batch_size, ranks * config.accumulate)
    if left:
        raise TrainingError(_uneven(config, ranks))
    most = config.images_at_a_time or part
    return config.accumulate * min(finer for finer in _divisors(part) if part // finer <= most)


def _divisors(number: int) -> set[int]:
    small = {i for i in range(1, math.isqrt(number) + 1) if number % i == 0}
    return small | {number // i for i in small}


def _uneven(config: TrainConfig, ranks: int) -> str:
    """What was wrong with batch, ranks and accumulate, and what each of them could be in place of that."""
    batch, parts = config.batch_size, config.accumulate

    def nearest(wanted: int, fit: set[int]) -> str:
        around = max((n for n in fit if n < wanted), default=0), min((n for n in fit if n > wanted), default=0)
        return " or ".join(str(n) for n in around if n)

    ways = []
    if batch % parts == 0:
        ways.append(f"{nearest(ranks, _divisors(batch // parts))} ranks")
    if batch % ranks == 0:
        ways.append(f"accumulate {nearest(parts, _divisors(batch // ranks))}")
    whole = ranks * parts
    ways.append(f"a batch of {nearest(batch, {batch // whole * whole, (batch // whole + 1) * whole})}")
    return (
        f"A batch of {batch} images must be a multiple of ranks x accumulate; got {ranks} ranks and accumulate "
        f"{parts}, expected {', or '.join(ways)}."
    )


@dataclass(frozen=True)
class Preset:
    """One run, from data to samples."""

    name: str
    dataset: str  # a name that data.load knows
    views: int  # of each training image; above 1, data.jittered adds slightly turned and resized ones
    tokenizer: TokenizerConfig
    tokenizer_train: TrainConfig
    model: Config
    model_train: TrainConfig
    sampling: AnySamplingConfig
    tokenizer_loss: LossConfig = PIXEL_LOSS
    revive_below: float | None = None  # of the tokenizer's codes, as in TokenizerTask
    tokenizer_crop: str = "random"  # how folders and shards are cut for each of the two, as in pictures.PictureSet
    model_crop: str = "random"
    jitter: tuple[float, float] = (6.0, 0.06)  # of views: degrees, and how much they are resized, as in data.jittered
    mirror: bool = False  # mirror images as well, of the emoji that they suit (data.mirrored_where_it_suits)

    def __post_init__(self) -> None:
        crops = {"tokenizer_crop": tuple(CROPS), "model_crop": tuple(CROPS)}
        check(self, views="[1, 1000]", revive_below="[0, 1]", jitter="[0, 90]", **crops)
        if isinstance(self.model, GPTConfig) and self.model.grid is None:
            raise ValueError("Training knows the grid of a GPT: expected a model.grid; got none.")
        if self.mirror and self.dataset not in ("emoji-32", "emoji-64"):
            raise ValueError(f"mirror is for emoji-32 and emoji-64, which say what has a side; got {self.dataset}.")
        expected = SETTINGS[type(self.model)]
        if not isinstance(self.sampling, expected):
            raise ValueError(
                f"A {type(self.model).__name__} is sampled by a {expected.__name__}; got a "
                f"{type(self.sampling).__name__}."
            )
        size, smallest = self.tokenizer.image_size, self.tokenizer_loss.discriminator.smallest_image
        if self.tokenizer_loss.gan and size is not None and min(size) < smallest:
            raise ValueError(
                f"A discriminator of {self.tokenizer_loss.discriminator.layers} layers needs images of at least "
                f"{smallest} pixels a side; got {min(size)}."
            )
