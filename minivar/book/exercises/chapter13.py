"""Exercises of chapter 13: ten crops, what a GPU holds, days of a run, its batch, and the evaluator's pixels."""

from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# Crops ------------------------------------------------------------------------------------------------------------


def ten_crops(side, size):
    """(top, left) of LlamaGen's first five windows of size pixels in a square picture of side, as a list of pairs."""
    far, middle = side - size, round((side - size) / 2)
    return [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]


def _crops(side, size, half=round, first=False, columns=False, whole=False) -> list[tuple[int, int]]:
    far, middle = side - size - whole, half((side - size) / 2)
    corners = [(0, 0), (far, 0), (0, far), (far, far)] if columns else [(0, 0), (0, far), (far, 0), (far, far)]
    return [(middle, middle), *corners] if first else [*corners, (middle, middle)]


def _ask_crops(side: int, size: int):
    return lambda function: [tuple(int(x) for x in place) for place in function(side, size)]


TEN_CROPS = Exercise(
    ten_crops,
    title="Ten crops",
    stars=1,
    minutes=8,
    way_in="upper left, upper right, lower left, lower right, middle",
    hint="With 281 and 256 pixels the middle is at 12.5. torchvision rounds it by Python's `round`: which way does "
    "that go?",
    remark="`round(12.5)` is 12 and `round(13.5)` is 14: halves go to the even number. A crop that is one pixel off "
    "gives other tokens, so whoever compares with published codes must round in the same way.",
    cases=(
        ("a picture of 36 and windows of 32 pixels", _ask_crops(36, 32)),
        ("windows as large as the picture", _ask_crops(8, 8)),
        ("256 pixels: the picture has int(1.1 * 256) = 281", _ask_crops(281, 256)),
        ("a middle that lies between two pixels, other side", _ask_crops(35, 32)),
        ("384 pixels", _ask_crops(int(1.1 * 384), 384)),
    ),
    mistakes=(
        ("Upper right comes before lower left; a pair is (top, left).", partial(_crops, columns=True)),
        ("The middle comes last.", partial(_crops, first=True)),
        ("Halves go to the even number, not always up.", partial(_crops, half=lambda x: int(x + 0.5))),
        ("Halves go to the even number, not always down.", partial(_crops, half=int)),
        ("The last window ends with the picture: count its pixels again.", partial(_crops, whole=True)),
    ),
)

# What a GPU holds ---------------------------------------------------------------------------------------------------


def state_bytes(parameters, block, gpus, fsdp, ema):
    """Parameters of model and largest block, GPUs, whether sharded, whether averaged -> bytes on one GPU."""
    numbers = 5 if ema else 4  # weight, gradient, two moments, and the average
    if not fsdp or gpus == 1:
        return numbers * 4 * parameters
    return numbers * 4 * parameters // gpus + 2 * 4 * block


def _state(parameters, block, gpus, fsdp, ema, moments=2, both=False, gathered=2, alone=False, averaged=True) -> int:
    numbers = 2 + moments + (averaged and ema)
    split = gpus if fsdp or both else 1
    fetched = gathered * 4 * block if fsdp and (gpus > 1 or alone) else 0
    return numbers * 4 * parameters // split + fetched


def _ask_state(*run):
    return lambda function: int(function(*run))


STATE_BYTES = Exercise(
    state_bytes,
    title="Before the first activation",
    stars=2,
    minutes=12,
    way_in="4 bytes for each of 4 or 5 numbers a parameter; FSDP divides, and adds two blocks",
    hint="With DDP each of a thousand GPUs holds as much as a single one does.",
    remark="From some number of GPUs on, the two gathered blocks are more than the share.",
    cases=(
        ("one GPU, one parameter", _ask_state(1, 1, 1, False, False)),
        ("the same with averaged weights", _ask_state(1, 1, 1, False, True)),
        ("DDP on eight GPUs", _ask_state(1_000_000, 60_000, 8, False, False)),
        ("FSDP on eight GPUs", _ask_state(1_000_000, 60_000, 8, True, False)),
        ("FSDP on one GPU", _ask_state(1_000_000, 60_000, 1, True, False)),
        ("d30 on 64 GPUs", _ask_state(2_010_016_000, 66_000_000, 64, True, True)),
    ),
    mistakes=(
        ("The average is one more number of every parameter.", partial(_state, averaged=False)),
        ("AdamW keeps two moments of every parameter.", partial(_state, moments=1)),
        ("DDP divides nothing: every GPU holds the whole model.", partial(_state, both=True)),
        ("FSDP also holds the weights of the block in use and of the next one.", partial(_state, gathered=0)),
        ("Two blocks are gathered: one in use, one being fetched.", partial(_state, gathered=1)),
        ("A single GPU has nothing to gather.", partial(_state, alone=True)),
    ),
)

# Days -------------------------------------------------------------------------------------------------------------


def planned_days(forward, seen, gpus, peak, utilisation, recompute):
    """FLOPs of a forward pass, images seen in the run, GPUs, FLOP/s of each -> days."""
    passes = 4 if recompute else 3  # forward, backward (two), and forward once more
    return passes * forward * seen / (gpus * peak * utilisation) / 86400


def _days(forward, seen, gpus, peak, utilisation, recompute, once=False, two=False, lazy=False, gpu=False, used=1):
    passes = 1 if once else 2 if two else 3
    passes += 1 if recompute and not lazy else 0
    return passes * forward * seen / (peak * utilisation**used * (1 if gpu else gpus)) / 86400


def _ask_days(*run):
    return lambda function: float(function(*run))


PLANNED_DAYS = Exercise(
    planned_days,
    title="Days",
    stars=1,
    minutes=8,
    way_in="work over speed, in days of 86,400 seconds",
    hint="A matrix product has two in its backward pass: one for the gradient of its input, one for that of its "
    "weight.",
    cases=(
        ("86,400 images, a FLOP each, on one GPU of 1 FLOP/s", _ask_days(1.0, 86_400, 1, 1.0, 1.0, False)),
        ("on four GPUs", _ask_days(1.0, 86_400, 4, 1.0, 1.0, False)),
        ("that are used to a third", _ask_days(1.0, 86_400, 4, 1.0, 1 / 3, False)),
        ("with recomputation", _ask_days(1.0, 86_400, 4, 1.0, 1 / 3, True)),
        ("two hundred epochs of ImageNet", _ask_days(3e11, 256_233_400, 16, 312e12, 0.3, False)),
    ),
    mistakes=(
        ("A step is more than a forward pass.", partial(_days, once=True)),
        ("What is forgotten is computed once more.", partial(_days, lazy=True)),
        ("The backward pass costs as much as two forward passes.", partial(_days, two=True)),
        ("Those are GPU-days: the GPUs share the work.", partial(_days, gpu=True)),
        ("A GPU that is used to a third takes longer, not less.", partial(_days, used=-1)),
    ),
)

# The batch --------------------------------------------------------------------------------------------------------


def step_plan(batch, gpus, fits, base_lr):
    """-> (parts of each GPU's share, peak learning rate), or None if the batch cannot be shared out evenly."""
    if batch % gpus:
        return None
    share = batch // gpus
    parts = next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= fits)
    return parts, base_lr * batch / 256


def _plan(batch, gpus, fits, base_lr, uneven=False, rounded=False, shared=False, most=False):
    if batch % gpus and not rounded:
        return None
    share = batch // gpus
    each = range(1, share + 1)
    parts = -(-share // fits) if uneven else next(n for n in each if share % n == 0 and share // n <= fits)
    parts = share if most else parts
    return parts, base_lr * (share if shared else batch) / 256


def _ask_plan(*recipe):
    def ask(function):
        got = function(*recipe)
        return got if got is None else (int(got[0]), round(float(got[1]), 12))

    return ask


STEP_PLAN = Exercise(
    step_plan,
    title="The recipe on your machine",
    stars=2,
    minutes=10,
    way_in="try 1, 2, 3, ... parts until one divides the share and is small enough",
    hint="The share of a GPU is `batch / gpus`, if that is a whole number. Does accumulation change the batch that "
    "the learning rate is meant for?",
    remark="The learning rate belongs to the batch, and neither GPUs nor parts change that. 7 GPUs would need "
    "another batch, and with it another learning rate: another recipe.",
    cases=(
        ("d16 on 16 GPUs that take 48 images each", _ask_plan(768, 16, 48, 1e-4)),
        ("d16 on 8 GPUs that take 48", _ask_plan(768, 8, 48, 1e-4)),
        ("one GPU that takes 47", _ask_plan(768, 1, 47, 1e-4)),
        ("d30 on 64 GPUs with room to spare", _ask_plan(1024, 64, 40, 8e-5)),
        ("d30 on 64 GPUs that take 10", _ask_plan(1024, 64, 10, 8e-5)),
        ("7 GPUs", _ask_plan(768, 7, 1000, 1e-4)),
        ("a GPU that takes one image at a time", _ask_plan(768, 8, 1, 1e-4)),
    ),
    mistakes=(
        ("The parts must be equal: their number divides the share.", partial(_plan, uneven=True)),
        ("7 GPUs cannot share 768 images evenly: None is asked for.", partial(_plan, rounded=True)),
        ("The learning rate belongs to the whole batch, not to a GPU's share.", partial(_plan, shared=True)),
        ("As few parts as will do: a GPU is busier with more images at a time.", partial(_plan, most=True)),
    ),
)

# What the evaluator reads -------------------------------------------------------------------------------------------


def evaluator_pixels(images):
    """Images (B, 1 or 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), as the evaluator reads them."""
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


def _pixels(images, levels=255, down=False, grey=False, reshaped=False, first=False) -> Tensor:
    pixels = images * levels if down else (images * levels).round()
    pixels = pixels.clamp(0, 255).to(torch.uint8)
    pixels = pixels if grey else pixels.expand(-1, 3, -1, -1)
    batch, channels, height, width = pixels.shape
    if reshaped:
        return pixels.reshape(batch, height, width, channels)
    return pixels if first else pixels.permute(0, 2, 3, 1)


def _ask_images(channels: int, dtype: bool = False):
    images = torch.rand(2, channels, 3, 4, generator=torch.Generator().manual_seed(channels))
    images[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    return lambda function: function(images.clone()).dtype is torch.uint8 if dtype else function(images.clone())


EVALUATOR_PIXELS = Exercise(
    evaluator_pixels,
    title="What the evaluator reads",
    stars=1,
    minutes=8,
    way_in="to 0 ... 255, rounded; grey becomes three channels; channels go last",
    remark="Cutting off in place of rounding makes all samples darker by half a level. The eye cannot see it; the "
    "features of a network that was not trained on it can.",
    cases=(
        ("pictures in colour", _ask_images(3)),
        ("grey pictures", _ask_images(1)),
        ("the type of the numbers", _ask_images(3, dtype=True)),
    ),
    mistakes=(
        ("Round: cutting off makes everything darker.", partial(_pixels, down=True)),
        ("1 is white, which is 255.", partial(_pixels, levels=256)),
        ("Grey has to be repeated to three channels.", partial(_pixels, grey=True)),
        ("A reshape does not move the channels, it mixes the pixels.", partial(_pixels, reshaped=True)),
        ("The channels come last.", partial(_pixels, first=True)),
    ),
)
