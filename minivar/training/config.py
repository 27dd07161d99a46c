"""What a training consists of, as tables: the optimisation of one model, and a whole run of two."""

from dataclasses import dataclass

from minivar.models import GPTConfig, VARConfig
from minivar.sampling import RasterSamplingConfig, SamplingConfig
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
    precision: str = "bf16"  # of autocast: bf16, fp16 or float32; a CPU trains in float32
    recompute: bool = False  # activations of the blocks in the backward pass: less memory, a third more time
    compile: bool = False  # torch.compile
    seed: int = 0
    log_every: int = 50  # steps
    checkpoint_every: int = 500  # steps, a multiple of log_every
    validate_every: int | None = None  # steps, a multiple of log_every; None: at every checkpoint
    validate_images: int = 10_000  # held-out images for that, at most, and always the same
    keep_best: bool = False  # the weights with the lowest held-out loss too, beside the last


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
