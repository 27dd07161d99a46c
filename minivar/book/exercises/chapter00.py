"""Exercises of chapter 00: what a pyramid has, what it says in bits, where a scale is, and the sum."""

import math
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def count_steps(sides):
    """Steps of next-scale prediction, its tokens, and the steps of a typewriter on the last grid."""
    return len(sides), sum(side * side for side in sides), sides[-1] ** 2


def _steps(sides, tokens="squares", last=True, steps=True) -> tuple[int, int, int]:
    counted = {"squares": sum(s * s for s in sides), "sides": sum(sides), "last": sides[-1] ** 2}[tokens]
    all_of = sides[-1] ** 2 if last else sum(s * s for s in sides)
    return len(sides) if steps else counted, counted, all_of


def _ask_sides(*sides: int):
    return lambda function: tuple(int(number) for number in function(sides))


COUNT_STEPS = Exercise(
    count_steps,
    title="Steps and tokens",
    stars=1,
    minutes=5,
    way_in="one step a scale; a grid with side s has s * s cells",
    remark="For ImageNet this gives 10 steps and 680 tokens against 256 steps: fewer steps, but more tokens. Both "
    "facts matter.",
    cases=(
        ("sides 1, 2", _ask_sides(1, 2)),
        ("sides 1, 2, 3, 4", _ask_sides(1, 2, 3, 4)),
        ("ImageNet at 256 pixels", _ask_sides(*VAR_SIDES)),
    ),
    mistakes=(
        ("A grid of side s has s * s cells, not s.", partial(_steps, tokens="sides")),
        ("The tokens of all scales count, not only those of the last.", partial(_steps, tokens="last")),
        ("A typewriter draws the last grid alone.", partial(_steps, last=False)),
        ("All tokens of a scale are one step.", partial(_steps, steps=False)),
    ),
)


def bits(sides, codes):
    """What a pyramid can say at most, in bits, when a token is one of so many codes."""
    return sum(side * side for side in sides) * torch.tensor(float(codes)).log2().item()


def _ask_bits(sides: tuple[int, ...], codes: int):
    return lambda function: float(function(sides, codes))


BITS = Exercise(
    bits,
    title="How much a pyramid can say",
    stars=1,
    minutes=4,
    way_in="log2(codes) bits for each token: torch.tensor(float(codes)).log2().item()",
    remark="The shipped digits have 270 bits; 28 x 28 pixels of 8 bits have 6,272.",
    cases=(
        ("one token of two codes", _ask_bits((1,), 2)),
        ("the shipped digits, 512 codes", _ask_bits((1, 2, 3, 4), 512)),
        ("ImageNet, 4,096 codes", _ask_bits(VAR_SIDES, 4096)),
    ),
    mistakes=(
        ("These are nats: bits have logarithms of base 2.", lambda s, codes: bits(s, codes) * math.log(2)),
        ("A token of V codes says log2(V) bits, not V.", lambda s, codes: float(sum(x * x for x in s) * codes)),
        ("That is a single token.", lambda s, codes: math.log2(codes)),
    ),
)


def tokens_of_scale(tokens, sides, k):
    """Flat tokens (L,) -> the map (s_k, s_k) of scale k = 1, 2, ..."""
    begin = sum(side * side for side in sides[: k - 1])
    side = sides[k - 1]
    return tokens[begin : begin + side * side].view(side, side)


def _scale(tokens, sides, k, shift=0, transposed=False, flat=False) -> Tensor:
    at = k - 1 + shift
    side = sides[at]
    begin = sum(s * s for s in sides[:at])
    found = tokens[begin : begin + side * side]
    return found if flat else found.view(side, side).T if transposed else found.view(side, side)


def _ask_scale(k: int, *sides: int):
    tokens = torch.arange(100, 100 + sum(side * side for side in sides))
    return lambda function: function(tokens.clone(), sides, k)


TOKENS_OF_SCALE = Exercise(
    tokens_of_scale,
    title="Where a scale is",
    stars=1,
    minutes=6,
    way_in="how many tokens come before scale k?",
    cases=(
        ("the second of 1, 2, 3, 4", _ask_scale(2, 1, 2, 3, 4)),
        ("the first of 1, 2", _ask_scale(1, 1, 2)),
        ("the last of 1, 2, 4", _ask_scale(3, 1, 2, 4)),
    ),
    mistakes=(
        ("Scales are counted from 1: this is the next one.", partial(_scale, shift=1)),
        ("Rows come one after the other: the map is transposed.", partial(_scale, transposed=True)),
        ("A map has rows and columns.", partial(_scale, flat=True)),
    ),
)


def pictures_so_far(parts):
    """What each scale adds (C, h, w), already enlarged -> the sum after scale 1, after scale 2, ..."""
    sums, so_far = [], 0.0
    for part in parts:
        so_far = so_far + part
        sums.append(so_far)
    return sums


def _ask_parts(count: int):
    parts = list(torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(count)))
    return lambda function: torch.stack(list(function([part.clone() for part in parts])))


PICTURES_SO_FAR = Exercise(
    pictures_so_far,
    title="The picture so far",
    stars=1,
    minutes=5,
    way_in="a running sum, of which every state is kept",
    cases=(("one scale", _ask_parts(1)), ("four scales", _ask_parts(4))),
    mistakes=(
        ("These are the parts; each picture is the sum of all parts until then.", lambda parts: parts),
        ("Only the last sum is there, again and again.", lambda parts: [sum(parts)] * len(parts)),
        (
            "That is the mean: the codes add up.",
            lambda parts: [sum(parts[: i + 1]) / (i + 1) for i in range(len(parts))],
        ),
    ),
)
