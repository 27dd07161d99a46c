"""Exercises of chapter 02a: RMSNorm, SwiGLU, and the two halves of the rotary embedding."""

from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


# RMSNorm ----------------------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    """x (..., D) divided by the root of the mean of its squares, times ``weight`` (D,)."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _rms(x: Tensor, weight: Tensor, eps: float, centred=False, summed=False, axis=-1, outside=False) -> Tensor:
    if centred:
        x = x - x.mean(-1, keepdim=True)
    squares = x.square().sum(axis, keepdim=True) if summed else x.square().mean(axis, keepdim=True)
    return x / (squares.sqrt() + eps if outside else (squares + eps).sqrt()) * weight


def _rms_of_everything(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * weight


def _no_root(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps) * weight


def _ask_norm(x: Tensor, weight: Tensor, eps: float = 1e-5):
    return lambda function: function(x.clone(), weight.clone(), eps)


RMS = Exercise(
    rms_norm,
    title="RMSNorm",
    stars=1,
    minutes=5,
    way_in="square, mean over the channels, root, divide",
    cases=(
        (
            "the vector (3, 4), weights of one",
            _ask_norm(torch.tensor([3.0, 4.0], dtype=torch.float64), torch.ones(2).double()),
        ),
        ("two images of five tokens, weights that differ", _ask_norm(_random(2, 5, 12), _random(12))),
        ("small numbers, where epsilon counts", _ask_norm(1e-2 * _random(3, 8), _random(8), 1e-3)),
    ),
    mistakes=(
        ("This takes the mean off, as LayerNorm does.", partial(_rms, centred=True)),
        ("The sum of the squares is used; their mean is meant.", partial(_rms, summed=True)),
        ("The square root is missing.", _no_root),
        ("Each token has its own size: the mean is over the channels alone.", _rms_of_everything),
        ("Epsilon stands under the root.", partial(_rms, outside=True)),
        ("The weights are missing.", lambda x, weight, eps: _rms(x, torch.ones_like(weight), eps)),
    ),
)

# SwiGLU -----------------------------------------------------------------------------------------------------------


def swiglu(x, w1, w2, w3):
    """x (..., D) with w1 and w3 (hidden, D) and w2 (D, hidden) -> (..., D)."""
    z = x @ w1.T
    gate = z * torch.sigmoid(z)
    return (gate * (x @ w3.T)) @ w2.T


def _swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, gate: str = "silu") -> Tensor:
    z = x @ w1.T
    gates = {"silu": z * z.sigmoid(), "sigmoid": z.sigmoid(), "both": z * z.sigmoid(), "relu": z.relu()}[gate]
    other = x @ w3.T
    return (gates * (other * other.sigmoid() if gate == "both" else other)) @ w2.T


def _added(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    z = x @ w1.T
    return (z * z.sigmoid() + x @ w3.T) @ w2.T


def _ask_mlp(*shape: int, hidden: int):
    D = shape[-1]
    x, weights = _random(*shape), [_random(hidden, D, seed=1), _random(D, hidden, seed=2), _random(hidden, D, seed=3)]
    return lambda function: function(x.clone(), *(w.clone() for w in weights))


GATED = Exercise(
    swiglu,
    title="SwiGLU",
    stars=1,
    minutes=8,
    way_in="a gate, a value, and the way back",
    hint="The matrices are stored as PyTorch's `nn.Linear` stores them, outputs first: $W x$ for every token is "
    "`x @ w.T`.",
    cases=(
        ("one token of two channels", _ask_mlp(2, hidden=3)),
        ("two images of five tokens", _ask_mlp(2, 5, 6, hidden=16)),
    ),
    mistakes=(
        (
            "w1 and w3 have changed places: the first makes the gate.",
            lambda x, w1, w2, w3: _swiglu(x, w3, w2, w1),
        ),
        (
            "The gate is z times the logistic function of z, not that function alone.",
            partial(_swiglu, gate="sigmoid"),
        ),
        ("Gate and value are multiplied, not added.", _added),
        ("Only one of the two is bent: the value passes as it is.", partial(_swiglu, gate="both")),
        ("This gate is a ReLU.", partial(_swiglu, gate="relu")),
    ),
)

# Rotary positions -------------------------------------------------------------------------------------------------


def rotary_angles(rows, columns, width, base):
    """(rows * columns, width / 2): the angle of each pair of a head (E = ``width``) in each cell, row by row."""
    omega = base ** (-4 * torch.arange(width // 4) / width)
    cell = torch.arange(rows * columns)
    row, column = cell // columns, cell % columns
    return torch.cat([row[:, None] * omega, column[:, None] * omega], dim=1)


def _angles(rows: int, columns: int, width: int, base: float, power=4, swapped=False, first=0, mixed=False) -> Tensor:
    omega = base ** (-power * torch.arange(width // 4) / width)
    cell = torch.arange(rows * columns)
    parts = [(cell // columns + first)[:, None] * omega, (cell % columns + first)[:, None] * omega]
    parts = parts[::-1] if swapped else parts
    return torch.stack(parts, dim=2).flatten(1) if mixed else torch.cat(parts, dim=1)


def _flat(rows: int, columns: int, width: int, base: float) -> Tensor:
    omega = base ** (-2 * torch.arange(width // 2) / width)
    return torch.arange(rows * columns)[:, None] * omega


def _divided_by_rows(rows: int, columns: int, width: int, base: float) -> Tensor:
    omega = base ** (-4 * torch.arange(width // 4) / width)
    cell = torch.arange(rows * columns)
    return torch.cat([(cell // rows)[:, None] * omega, (cell % rows)[:, None] * omega], dim=1)


def _speeds_in_a_row(rows: int, columns: int, width: int, base: float) -> Tensor:
    omega = base ** (-2 * torch.arange(width // 2) / width)
    cell = torch.arange(rows * columns)[:, None]
    return torch.cat([cell // columns * omega[: width // 4], cell % columns * omega[width // 4 :]], dim=1)


def _ask_angles(rows: int, columns: int, width: int, base: float):
    return lambda function: function(rows, columns, width, base).double()


ANGLES = Exercise(
    rotary_angles,
    title="The angles",
    stars=2,
    minutes=12,
    way_in="speeds, then rows and columns of the cells",
    hint="The E/4 speeds are `base ** (-4 * torch.arange(E // 4) / E)`. Cell i, counted from 0, is in row "
    "`i // columns` and column `i % columns`. One half of the angles is row times speed, the other column times "
    "speed.",
    cases=(
        ("a single cell: no angle", _ask_angles(1, 1, 8, 10000.0)),
        ("E = 4, one pair for the row and one for the column, 2 x 3 cells", _ask_angles(2, 3, 4, 10000.0)),
        ("E = 16 on 3 x 3 cells", _ask_angles(3, 3, 16, 10000.0)),
        ("E = 32 on 2 x 5 cells, base 100", _ask_angles(2, 5, 32, 100.0)),
    ),
    mistakes=(
        ("The first half of the pairs belongs to the row, the second to the column.", partial(_angles, swapped=True)),
        ("Rows and columns are counted from 0 here: the first cell turns nothing.", partial(_angles, first=1)),
        (
            "The speeds fall too slowly: each half has E/4 pairs, and goes through all speeds.",
            partial(_angles, power=2),
        ),
        ("The halves stand one after the other, not in turn.", partial(_angles, mixed=True)),
        ("This is the rotary embedding of a text: one coordinate for the whole sequence.", _flat),
        ("Both halves use the same speeds; here the second goes on where the first ends.", _speeds_in_a_row),
        ("A row is as long as there are columns: divide by that.", _divided_by_rows),
    ),
)


def rotate_pairs(x, angles, prefix):
    """x (..., prefix + n, E), angles (n, E / 2) -> each pair turned; condition tokens, the first ``prefix``, zero."""
    none = torch.zeros(prefix, angles.shape[1])
    cos, sin = torch.cat([none, angles.cos()]), torch.cat([none, angles.sin()])
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def _rotate(x: Tensor, angles: Tensor, prefix: int, sign=1, first=0.0, halves=False, joined=False) -> Tensor:
    cos, sin = (torch.cat([torch.full((prefix, angles.shape[1]), f), t]) for f, t in
                ((first, angles.cos()), (0.0, sign * angles.sin())))  # fmt: skip
    even, odd = x.chunk(2, dim=-1) if halves else (x[..., 0::2], x[..., 1::2])
    parts = [even * cos - odd * sin, odd * cos + even * sin]
    return torch.cat(parts, dim=-1) if halves or joined else torch.stack(parts, dim=-1).flatten(-2)


def _untouched(x: Tensor, angles: Tensor, prefix: int) -> Tensor:
    return torch.cat([x[..., :prefix, :], _rotate(x[..., prefix:, :], angles, 0)], dim=-2)


def _from_the_first(x: Tensor, angles: Tensor, prefix: int) -> Tensor:
    longer = torch.cat([angles, angles[-1:].expand(prefix, -1)])[: x.shape[-2]]
    return _rotate(x, longer, 0)


def _dropped(x: Tensor, angles: Tensor, prefix: int) -> Tensor:
    return _rotate(x[..., prefix:, :], angles, 0)


def _same_sign(x: Tensor, angles: Tensor, prefix: int) -> Tensor:
    none = torch.zeros(prefix, angles.shape[1])
    cos, sin = torch.cat([none, angles.cos()]), torch.cat([none, angles.sin()])
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos + odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def _ask_turn(shape: tuple[int, ...], prefix: int):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    angles = 3 * torch.rand(shape[-2] - prefix, shape[-1] // 2, generator=torch.Generator().manual_seed(prefix))
    return lambda function: function(x.clone(), angles.clone(), prefix)


ROTATE = Exercise(
    rotate_pairs,
    title="The turn",
    stars=2,
    minutes=12,
    way_in="even and odd entries, cosines and sines, zeros in front",
    hint="The pairs are neighbours: `x[..., 0::2]` are their first entries, `x[..., 1::2]` their second. Stacking "
    "the two results in a new last dimension and flattening interleaves them again. Put `prefix` rows of zeros in "
    "front of the cosines *and* of the sines.",
    cases=(
        ("one position, one pair, no condition", _ask_turn((1, 2), 0)),
        ("four positions of width 8, no condition", _ask_turn((4, 8), 0)),
        ("a class in front of four image tokens", _ask_turn((5, 8), 1)),
        ("two images of two heads, three condition tokens, four image tokens", _ask_turn((2, 2, 7, 16), 3)),
    ),
    mistakes=(
        ("Turned the other way round.", partial(_rotate, sign=-1)),
        ("A rotation needs a minus sign in one of its two lines.", _same_sign),
        (
            "Pairs are neighbours (0, 1), (2, 3), ..., not the two halves of the vector.",
            partial(_rotate, halves=True),
        ),
        (
            "Right, but not interleaved again: first and second entries of a pair are neighbours.",
            partial(_rotate, joined=True),
        ),
        (
            "Condition tokens are left as they are, which is turning by the angle 0; cosine and sine are both 0.",
            _untouched,
        ),
        ("The condition tokens take the places of the first cells.", _from_the_first),
        ("The condition tokens are gone; they stay, as zeros.", _dropped),
    ),
)
