"""Checks of the exercises of chapter 13."""

from collections.abc import Callable

import torch
import torchvision.transforms.functional as TF

from minivar import presets
from minivar.book.exercises.verdict import verdict
from minivar.training import TrainConfig, learning_rate


def check_step_plan(fn: Callable[[int, int, int, float], tuple[int, float] | None]) -> bool:
    """``fn(batch, gpus, fits, base_lr)`` -> (accumulate, peak learning rate), or None if it cannot be cut so."""

    def case(name: str, batch: int, gpus: int, fits: int, base_lr: float, accumulate: int | None):
        expected = None
        if accumulate is not None:
            config = TrainConfig(batch_size=batch, base_lr=base_lr, warmup=0.0)
            expected = (accumulate, round(learning_rate(0, 1000, config), 12))

        def call():
            got = fn(batch, gpus, fits, base_lr)
            return got if got is None else (got[0], round(got[1], 12))

        return name, call, expected

    d16, d30 = (presets.get(name).model_train for name in ("var-d16", "var-d30"))
    return verdict(
        "step plan",
        (
            case("d16 on 16 GPUs that take 48 images each", d16.batch_size, 16, 48, d16.base_lr, 1),
            case("d16 on 8 GPUs that take 48: two parts", d16.batch_size, 8, 48, d16.base_lr, 2),
            case("one GPU that takes 47: the parts must be equal", d16.batch_size, 1, 47, d16.base_lr, 24),
            case("d30 on 64 GPUs with room to spare", d30.batch_size, 64, 40, d30.base_lr, 1),
            case("d30 on 64 GPUs that take 10", d30.batch_size, 64, 10, d30.base_lr, 2),
            case("7 GPUs do not divide 768", 768, 7, 1000, 1e-4, None),
            case("a GPU that takes one image at a time", 768, 8, 1, 1e-4, 96),
        ),
    )


def check_ten_crops(fn: Callable[[int, int], list[tuple[int, int]]]) -> bool:
    """``fn(side, size)`` -> (top, left) of LlamaGen's first five windows in a square picture, in order."""

    def case(side: int, size: int):
        places = torch.arange(side * side).view(1, side, side)
        expected = [divmod(int(crop[0, 0, 0]), side) for crop in TF.five_crop(places, [size, size])]
        return lambda: [tuple(place) for place in fn(side, size)], expected

    return verdict(
        "ten crops",
        (
            ("a picture of 36 and windows of 32 pixels", *case(36, 32)),
            ("windows as large as the picture", *case(8, 8)),
            ("256 pixels: the picture has int(1.1 * 256) = 281", *case(281, 256)),
            ("a middle that lies between two pixels, other side", *case(35, 32)),
            ("384 pixels", *case(int(1.1 * 384), 384)),
        ),
    )


def check_state_bytes(fn: Callable[[int, int, int, bool, bool], int]) -> bool:
    """``fn(parameters, block, gpus, fsdp, ema)`` -> bytes on one GPU before the first activation."""

    def case(parameters: int, block: int, gpus: int, fsdp: bool, ema: bool):
        shards = gpus if fsdp else 1
        numbers = 5 if ema else 4  # weight, gradient, two moments of AdamW, average
        gathered = 2 * 4 * block if fsdp and gpus > 1 else 0
        expected = numbers * 4 * parameters // shards + gathered
        return lambda: fn(parameters, block, gpus, fsdp, ema), expected

    return verdict(
        "state bytes",
        (
            ("one GPU, one parameter: sixteen bytes", *case(1, 1, 1, False, False)),
            ("the same with averaged weights", *case(1, 1, 1, False, True)),
            ("DDP keeps everything everywhere", *case(1_000_000, 60_000, 8, False, False)),
            ("FSDP divides it, and gathers two blocks", *case(1_000_000, 60_000, 8, True, False)),
            ("FSDP on one GPU has nothing to gather", *case(1_000_000, 60_000, 1, True, False)),
            ("d30 on 64 GPUs", *case(2_010_016_000, 66_000_000, 64, True, True)),
        ),
    )
