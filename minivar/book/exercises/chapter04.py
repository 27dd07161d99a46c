"""Checks of the exercises of chapter 04."""

from collections.abc import Callable

import torch
from torch import Tensor

from minivar.book.exercises.verdict import verdict


def check_toy_decode(fn: Callable[[list[Tensor], Tensor, int], Tensor]) -> bool:
    """``fn(tokens, codebook, size)`` -> f_hat (size, size): the sum of the codes, spread by repeating cells."""

    def case(sides: tuple[int, ...], codebook: list[float]):
        draw = torch.Generator().manual_seed(len(sides))
        tokens = [torch.randint(len(codebook), (side, side), generator=draw) for side in sides]
        codes = [torch.tensor(codebook)[t] for t in tokens]
        size = sides[-1]
        expected = sum(c.repeat_interleave(size // len(c), 0).repeat_interleave(size // len(c), 1) for c in codes)
        return lambda: fn([t.clone() for t in tokens], torch.tensor(codebook), size), expected

    toy = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0]
    return verdict(
        "toy decode",
        (
            ("a single 1 x 1 scale", *case((1,), toy)),
            ("scales 1, 2 (does every coarse code cover its whole block?)", *case((1, 2), toy)),
            ("scales 1, 2, 4 with the codebook of section 2", *case((1, 2, 4), toy)),
            ("scales 1, 2, 3, 6 with three codes", *case((1, 2, 3, 6), [-1.0, 0.5, 3.0])),
        ),
    )


def check_straight_through(fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """``fn(features, f_hat)``: the value of f_hat, the gradient of the identity with respect to the features."""
    draw = torch.Generator().manual_seed(0)
    features, f_hat, upstream = torch.randn(3, 2, 4, 3, 3, generator=draw)

    def run(part: str) -> Tensor:
        f, q = features.clone().requires_grad_(), f_hat.clone().requires_grad_()
        out = fn(f, q)
        if part == "value":
            return out.detach()
        out.backward(upstream)
        gradient = f.grad if part == "features" else q.grad
        return torch.zeros_like(upstream) if gradient is None else gradient

    return verdict(
        "straight through",
        (
            ("the value (it must be f_hat)", lambda: run("value"), f_hat),
            ("the gradient that reaches the features", lambda: run("features"), upstream),
            ("the gradient that reaches f_hat (none may)", lambda: run("f_hat"), torch.zeros_like(upstream)),
        ),
    )


def check_usage(fn: Callable[[Tensor, int], tuple[float, float]]) -> bool:
    """``fn(tokens, codebook_size)`` -> (share of the codebook that occurs, perplexity of the codes)."""

    def case(tokens: list[int], size: int, used: float, perplexity: float):
        return lambda: torch.tensor(fn(torch.tensor(tokens), size)), torch.tensor([used, perplexity])

    return verdict(
        "usage",
        (
            ("one code only", *case([3] * 10, 8, 1 / 8, 1.0)),
            ("four codes, equally often, of a codebook of eight", *case([0, 2, 4, 6] * 5, 8, 0.5, 4.0)),
            ("every code once", *case(list(range(16)), 16, 1.0, 16.0)),
            ("two codes, one of them three times in four", *case([1, 1, 1, 5], 10, 0.2, 4 / 3**0.75)),
        ),
    )
