"""A tokenizer and a transformer in figures: parameters, tokens, arithmetic."""

import math

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minivar.analysis.complexity import count_flops
from minivar.models import GPT, VAR, DiT, Generator, caption_shape
from minivar.tokenizer import VQVAE, Pixels


def describe(tokenizer: VQVAE | Pixels, model: Generator) -> dict[str, object]:
    """Parameters, tokens and forward FLOPs of one image; the models may be on the meta device."""
    found = {
        "tokenizer parameters": sum(p.numel() for p in tokenizer.parameters()),
        "transformer parameters": sum(p.numel() for p in model.parameters()),
    }
    order, tokens, inputs = one_pass(tokenizer, model)
    if isinstance(tokenizer, Pixels):
        size = model.config.input_size
        found |= {"image": f"{model.config.channels} x {size} x {size}", "schedule": order, "tokens": tokens}
    else:
        config, device = tokenizer.config, inputs[0].device
        grid = config.latent_grid or model.config.grid or (16, 16)
        pixels = config.image_size or tuple(side * config.nets.stride for side in grid)
        images = torch.zeros(1, config.nets.image_channels, *pixels, device=device)
        f_hat = torch.zeros(1, config.code_dim, *grid, device=device)
        found |= {
            "image": f"{config.nets.image_channels} x {pixels[0]} x {pixels[1]}",
            "schedule": order,
            "tokens": tokens,
            "codebook": f"{config.codebook_size} codes of {config.code_dim} dimensions",
            "FLOPs to encode one image": count_flops(lambda: tokenizer.features(images))["all"],
            "FLOPs to decode one image": count_flops(lambda: tokenizer.decode_features(f_hat))["all"],
        }
    return {**found, "FLOPs of one teacher-forced pass": count_flops(lambda: model(*inputs))["all"]}


def one_pass(tokenizer: VQVAE | Pixels, model: Generator) -> tuple[str, int, tuple[Tensor, ...]]:
    """In which order a model draws, how many tokens it sees, and what it takes for one image in training."""
    config, device = model.config, next(model.parameters()).device
    captions = caption_shape(config)
    labels = torch.zeros(1, *captions or (), dtype=torch.float32 if captions else torch.int64, device=device)
    if isinstance(model, VAR):
        tokens = config.schedule.num_tokens
        inputs = torch.zeros(1, tokens - config.schedule.counts[0], config.code_dim, device=device)
        return str(config.schedule), tokens, (labels, inputs)
    if isinstance(model, DiT):
        side = config.input_size // config.patch
        pictures = torch.zeros(1, config.channels, config.input_size, config.input_size, device=device)
        return f"{side} x {side} patches, from noise", side**2, (pictures, labels, labels)
    grid = config.grid or tokenizer.config.latent_grid or (16, 16)
    tokens, raster = math.prod(grid), isinstance(model, GPT)
    order = f"{grid[0]} x {grid[1]} {'in raster order' if raster else 'in the order of surety'}"
    seen = torch.zeros(1, tokens - raster, dtype=torch.int64, device=device)
    return order, tokens, (labels, seen)


def stages(tokenizer: VQVAE) -> list[tuple[str, tuple[int, int, int], int]]:
    """(name, (channels, h, w) of what it returns, parameters) of each part, on the way of an image of zeros.

    The norms before the two output convolutions are no parts of their own, and not counted. A
    tokenizer on the meta device costs neither memory nor time.
    """
    found: list[tuple[str, tuple[int, ...], int]] = []

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        note = lambda m, _, out: found.append((name, tuple(out.shape[1:]), count(m)))  # noqa: E731
        return module.register_forward_hook(note)

    watching = []
    for name, module in tokenizer.named_modules():
        first, *rest = name.split(".")
        level = len(rest) == 2 and rest[0] == "levels"
        if first in ("encoder", "decoder") and (level or rest in (["conv_in"], ["middle"], ["conv_out"])):
            watching.append(watch(name.replace("coder.", "c ").replace("levels.", "level "), module))
        elif name in ("quant_conv", "post_quant_conv"):
            watching.append(watch(name, module))
    config, device = tokenizer.config, tokenizer.quantizer.codebook.device
    with torch.no_grad():
        features = tokenizer.features(torch.zeros(1, config.nets.image_channels, *config.image_size, device=device))
        found.append(("f_hat", tuple(features.shape[1:]), count(tokenizer.quantizer)))
        image = tokenizer.decode_features(features)
    for handle in watching:
        handle.remove()
    return [*found, ("image", tuple(image.shape[1:]), 0)]
