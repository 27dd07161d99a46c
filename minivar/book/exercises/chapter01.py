"""Checks of the exercises of chapter 01."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.verdict import verdict


def check_compression(fn: Callable[[int, int, int, int, int], float]) -> bool:
    """``fn(height, width, channels, stride, codebook_size)`` -> raw bits, 8 a value, divided by token bits."""
    return verdict(
        "compression",
        (
            ("a 28 x 28 digit, stride 4, 512 codes", lambda: float(fn(28, 28, 1, 4, 512)), 6272 / 441),
            ("LlamaGen at 256 pixels (three channels)", lambda: float(fn(256, 256, 3, 16, 16384)), 1572864 / 3584),
            ("an image that is not square", lambda: float(fn(64, 32, 3, 8, 1024)), 49152 / 320),
            ("sides that need padding (cells are not cut)", lambda: float(fn(30, 30, 1, 4, 16)), 7200 / 256),
            ("two codes, one bit a token", lambda: float(fn(8, 8, 1, 8, 2)), 512.0),
        ),
    )


def check_sphere_lookup(fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """``fn(features, codebook)``: (N, C), (V, C) -> int64 (N,), the code with the most similar direction."""

    def reference(z_NC: Tensor, codebook_VC: Tensor) -> Tensor:
        return (F.normalize(z_NC, dim=1) @ F.normalize(codebook_VC, dim=1).T).argmax(1)

    def case(z_NC: Tensor, codebook_VC: Tensor):
        return lambda: fn(z_NC.clone(), codebook_VC.clone()), reference(z_NC, codebook_VC)

    draw = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(50, 8, generator=draw), torch.randn(20, 8, generator=draw)
    lengths = torch.logspace(-2, 2, 20)[:, None]
    return verdict(
        "sphere lookup",
        (
            (
                "the two codes of section 4",
                *case(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.0], [0.0, 10.0]])),
            ),
            ("random vectors", *case(z, codebook)),
            ("codes of very different length (does the longest code win too often?)", *case(z, codebook * lengths)),
            ("features a thousand times longer", *case(z * 1000, codebook)),
            ("a code that points the other way", *case(torch.ones(1, 3), torch.tensor([[-9.0, -9, -9], [1, 0, 0]]))),
        ),
    )


def check_quantizer_loss(fn: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """``fn(features, codes, beta)``: codebook loss plus ``beta`` times commitment loss, means over all elements."""
    draw = torch.Generator().manual_seed(1)
    features, codes = torch.randn(2, 6, 3, generator=draw)

    def run(part: str, beta: float) -> Tensor:
        z, e = features.clone().requires_grad_(), codes.clone().requires_grad_()
        loss = fn(z, e, beta)
        if part == "value":
            return loss.detach()
        loss.backward()
        gradient = {"features": z, "codes": e}[part].grad
        return torch.zeros_like(features) if gradient is None else gradient

    error = features - codes
    return verdict(
        "quantizer loss",
        (
            ("its value with beta = 0.25", lambda: run("value", 0.25), 1.25 * error.square().mean()),
            ("its value with beta = 1", lambda: run("value", 1.0), 2 * error.square().mean()),
            ("what moves the codes (beta must not)", lambda: run("codes", 0.25), -2 * error / error.numel()),
            ("what moves the features", lambda: run("features", 0.25), 0.25 * 2 * error / error.numel()),
            ("the features with beta = 0 (nothing moves them)", lambda: run("features", 0.0), 0 * error),
        ),
    )
