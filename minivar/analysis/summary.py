"""A tokenizer and a transformer in figures: parameters, tokens, arithmetic."""

import math

import torch

from minivar.analysis.complexity import count_flops
from minivar.models import GPT, VAR
from minivar.tokenizer import VQVAE


def describe(tokenizer: VQVAE, model: VAR | GPT) -> dict[str, object]:
    """Parameters, tokens and forward FLOPs of one image; the models may be on the meta device."""
    device = next(model.parameters()).device
    config = tokenizer.config
    grid = config.latent_grid or model.config.grid or (16, 16)
    pixels = config.image_size or tuple(side * config.nets.stride for side in grid)
    images = torch.zeros(1, config.nets.image_channels, *pixels, device=device)
    f_hat = torch.zeros(1, config.code_dim, *grid, device=device)
    if isinstance(model, GPT):
        order, tokens = f"{grid[0]} x {grid[1]} in raster order", math.prod(grid)
        inputs = torch.zeros(1, tokens - 1, dtype=torch.int64, device=device)
    else:
        order, tokens = str(tokenizer.schedule), model.schedule.num_tokens
        inputs = torch.zeros(1, tokens - model.schedule.counts[0], config.code_dim, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)

    return {
        "tokenizer parameters": sum(p.numel() for p in tokenizer.parameters()),
        "transformer parameters": sum(p.numel() for p in model.parameters()),
        "image": f"{config.nets.image_channels} x {pixels[0]} x {pixels[1]}",
        "schedule": order,
        "tokens": tokens,
        "codebook": f"{config.codebook_size} codes of {config.code_dim} dimensions",
        "FLOPs to encode one image": count_flops(lambda: tokenizer.features(images))["all"],
        "FLOPs to decode one image": count_flops(lambda: tokenizer.decode_features(f_hat))["all"],
        "FLOPs of one teacher-forced pass": count_flops(lambda: model(labels, inputs))["all"],
    }
