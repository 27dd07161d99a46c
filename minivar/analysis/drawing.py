"""What drawing from a published model will need, before anything is downloaded: bytes of files and memory, seconds.

Shapes are enough. FLOPs are counted, bytes are added up, and the decoder's activations are traced. Seconds on a GPU
are *planned*, not measured: the time of the arithmetic or that of reading weights and caches, whichever is longer, at
the data sheet's speeds times a utilisation that is assumed. Of small models drawn token by token that is too little,
since their steps wait for the launches of kernels: LlamaGen's authors measured 2.39 s for eight images by B, and 6.26
by 3B, with vLLM on an A100. Seconds on a CPU follow from a calibration of the machine at hand.
"""

import math
from dataclasses import dataclass, replace

import torch

from minivar import models, presets
from minivar.analysis.complexity import (
    Step,
    arithmetic_intensity,
    count_flops,
    model_flops,
    next_scale_steps,
    raster_steps,
    time_call,
)
from minivar.analysis.live_bytes import LiveBytes
from minivar.analysis.planner import MEMORY, PEAK, PlanError
from minivar.checkpoints import PublishedModel, find_published
from minivar.models import GPT, VAR, VARConfig
from minivar.sampling import cache_bytes
from minivar.tokenizer import VQVAE

# Bytes a second from memory, of the GPUs of ``planner.PEAK``: the vendor's data sheets (SXM, 80 GB, of A100 and H100)
BANDWIDTH = {"a100": 2.04e12, "h100": 3.35e12, "rtx3090": 0.936e12, "rtx4090": 1.008e12}
IMAGES = (1, 8)  # drawn together
PROCESS = 0.6e9  # bytes of Python and PyTorch before there is a model, as measured


@dataclass(frozen=True)
class Speed:
    """What a processor does a second: floating point operations, and bytes read from its memory."""

    flops: float
    bytes: float


def shapes(row: PublishedModel) -> tuple[VQVAE, VAR | GPT]:
    """Tokenizer and transformer of a published model, on the meta device: shapes without numbers."""
    preset = presets.get("llamagen-xl-256" if row.text else row.name)
    config = preset.model
    if row.text:  # 120 tokens of FLAN-T5-XL's features
        config = replace(config, grid=row.grid, num_classes=0, caption_tokens=120, caption_dim=2048)
    with torch.device("meta"):
        tokenizer = VQVAE(replace(preset.tokenizer, image_size=row.pixels)).eval()
        return tokenizer, models.build(config).eval().to("meta")  # constants too


def sampling_steps(config: models.Config) -> list[Step]:
    """The forward passes of one image, with a KV cache."""
    if isinstance(config, VARConfig):
        return next_scale_steps(config.schedule, cache=True)
    return raster_steps(math.prod(config.grid), True, config.prefix)


def drawing(name: str | PublishedModel, utilisation: float = 0.3) -> dict[str, object]:
    """What drawing guided images from a published model takes: bytes of files and memory, FLOPs, seconds by GPU.

    Under "memory" and "seconds" are numbers for each of ``IMAGES`` drawn together. Memory is that of a process on a
    CPU in float32, where weights are there as in the file and once more, packed for the processor (one image by d16
    took 4.7 GB, and 4.3 are planned); and of a GPU where autocast computes in 16 bits: weights in float32 and 16-bit
    copies of them. Activations are the decoder's, in float32, which is too much under autocast. Raises ``PlanError``
    for a utilisation outside of (0, 1], and ``CheckpointError`` for an unknown name.
    """
    if not 0 < utilisation <= 1:
        raise PlanError(f"A utilisation lies in (0, 1]; got {utilisation}.")
    row = name if isinstance(name, PublishedModel) else find_published(name)
    tokenizer, model = shapes(row)
    parameters = sum(p.numel() for module in (tokenizer, model) for p in module.parameters())
    activations, decoding = decoder_needs(tokenizer, row.grid)
    flops = 2 * model_flops(sampling_steps(model.config), model.config) + decoding  # two sequences: guidance
    caches = {bits: cache_bytes(model.config, bits) + activations for bits in ("float32", "bf16")}
    planned = {gpu: Speed(PEAK[gpu] * utilisation, BANDWIDTH[gpu] * utilisation) for gpu in PEAK}
    return {
        "model": row,
        "utilisation": utilisation,
        "parameters": parameters,
        "files": {file: 4 * numbers for file, numbers in zip(row.files, row.numbers)},
        "FLOPs": flops,
        "decoding": decoding,
        "memory": {
            "CPU, float32": {count: PROCESS + 8 * parameters + count * caches["float32"] for count in IMAGES},
            "GPU, 16 bits": {count: 6 * parameters + count * caches["bf16"] for count in IMAGES},
        },
        "seconds": {
            gpu: {count: seconds(model.config, decoding, speed, count, 2) for count in IMAGES}
            for gpu, speed in planned.items()
        },
    }


def seconds(config: models.Config, decoding: int, speed: Speed, images: int, bytes_per_number: int) -> float:
    """Of drawing ``images`` together, at full speed: the arithmetic, or the reading if that takes longer."""
    steps = sampling_steps(config)
    flops = 2 * images * model_flops(steps, config)
    read = flops / arithmetic_intensity(steps, config, True, 2 * images, bytes_per_number)
    return max((flops + images * decoding) / speed.flops, read / speed.bytes)


def decoder_needs(tokenizer: VQVAE, grid: tuple[int, int]) -> tuple[int, int]:
    """(bytes, FLOPs) of decoding an image in float32: the most that is alive at a time, and all the arithmetic."""
    f_hat = torch.zeros(1, tokenizer.config.code_dim, *grid, device="meta")
    with torch.no_grad(), LiveBytes() as live:
        tokenizer.decode_features(f_hat)
    return live.peak, count_flops(lambda: tokenizer.decode_features(f_hat))["all"]


def calibrate() -> Speed:
    """What this CPU does in float32 with the threads it has: a product of matrices, and one of a matrix and a vector.

    Half a second. Other programs that run meanwhile count; on a quiet machine it is the most that drawing reaches.
    """
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    large, vector = torch.randn(8192, 4096), torch.randn(4096)  # 134 MB, more than caches hold
    return Speed(2 * 1024**3 / time_call(lambda: left @ right), 4 * large.numel() / time_call(lambda: large @ vector))


def as_text(needed: dict[str, object], here: Speed | None = None) -> str:
    """What drawing needs as a table for a terminal; ``here`` is the calibration of a CPU."""

    def row(what: str, numbers: dict[int, float], digits: int, unit: str, more: str = "") -> str:
        return f"  {what:34}" + "".join(f"{numbers[count]:>9,.{digits}f} {unit}" for count in IMAGES) + more

    lines = [f"  {file:34}{size / 1e9:.2f} GB, if it is in float32" for file, size in needed["files"].items()]
    lines.append(f"  {'FLOPs of one guided image':34}{needed['FLOPs']:,}")
    lines.append(f"  {'images drawn together':34}" + "".join(f"{count:>9}   " for count in IMAGES).rstrip())
    for where, sizes in needed["memory"].items():
        lines.append(row(f"memory, {where}", {count: size / 1e9 for count, size in sizes.items()}, 2, "GB"))
    for gpu, times in needed["seconds"].items():
        fits = max(needed["memory"]["GPU, 16 bits"].values()) < 0.9 * MEMORY[gpu]
        lines.append(row(f"planned, {gpu}", times, 3, "s ", "" if fits else f" ({IMAGES[-1]} do not fit)").rstrip())
    if here is not None:
        config = shapes(needed["model"])[1].config
        taken = {count: seconds(config, needed["decoding"], here, count, 4) for count in IMAGES}
        lines.append(row("this CPU, at the speed below", taken, 1, "s ").rstrip())
    lines.append(f"  planned, not measured: at {needed['utilisation']:g} of the data sheet's speed")
    if here is not None:
        speeds = f"{here.flops / 1e9:,.0f} GFLOP/s in a product of matrices, {here.bytes / 1e9:,.0f} GB/s read"
        lines.append(f"  this CPU, measured just now: {speeds}")
    return "\n".join(lines)
