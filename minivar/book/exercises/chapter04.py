"""Exercises of chapter 04: the nearest code, a pyramid written and read."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

Grid = tuple[int, int]


def repeated(codes_BChw: Tensor, grid: Grid) -> Tensor:
    """Each cell over its block."""
    return F.interpolate(codes_BChw, size=grid, mode="nearest")


def bicubic(codes_BChw: Tensor, grid: Grid) -> Tensor:
    """As the package enlarges."""
    return F.interpolate(codes_BChw, size=grid, mode="bicubic")


def same_map(h_BChw: Tensor) -> Tensor:
    """No phi."""
    return h_BChw


def some_phis(count: int, channels: int, seed: int = 0) -> list[Callable[[Tensor], Tensor]]:
    """Half the map and half a random convolution of it, a different one for every scale."""
    draw = torch.Generator().manual_seed(seed)
    weights = 0.3 * torch.randn(count, channels, channels, 3, 3, generator=draw)
    biases = 0.1 * torch.randn(count, channels, generator=draw)
    return [partial(_phi, weight=weight, bias=bias) for weight, bias in zip(weights, biases, strict=True)]


def _phi(h_BChw: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return 0.5 * h_BChw + 0.5 * F.conv2d(h_BChw, weight, bias, padding=1)


# The nearest code -------------------------------------------------------------------------------------------------


def nearest_codes(z, codebook):
    """Index (N,) of the code nearest to each vector z (N, C), of a codebook (V, C)."""
    squares = z.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return (squares - 2 * z @ codebook.T).argmin(1)


def _by_product(z: Tensor, codebook: Tensor) -> Tensor:
    return (z @ codebook.T).argmax(1)


def _by_direction(z: Tensor, codebook: Tensor) -> Tensor:
    return (F.normalize(z, dim=1) @ F.normalize(codebook, dim=1).T).argmax(1)


def _from_codes(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(codebook, z).argmin(1)


def _farthest(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(z, codebook).argmax(1)


def _by_blocks(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(z, codebook, p=1).argmin(1)


def _nearest_code_itself(z: Tensor, codebook: Tensor) -> Tensor:
    return codebook[nearest_codes(z, codebook)]


def _ask_nearest(z: Tensor, codebook: Tensor) -> Callable:
    return lambda function: function(z.clone(), codebook.clone())


TOY_CODES = torch.tensor([-4.0, -2, -1, 0, 1, 2, 4, 8])
TOY_MAP = torch.tensor([[10.0, 9, 4, 2], [8, 9, 2, 4], [8, 1, -1, -2], [1, 2, 0, -1]])
_DRAW = torch.Generator().manual_seed(0)
VECTORS, CODES = torch.randn(50, 8, generator=_DRAW), torch.randn(64, 8, generator=_DRAW)

NEAREST = Exercise(
    nearest_codes,
    title="The nearest code",
    stars=1,
    minutes=8,
    way_in="the squared distance of every vector to every code, and the smallest of each row",
    hint="$\\|z - e\\|^2 = \\|z\\|^2 + \\|e\\|^2 - 2\\, z \\cdot e$. The last term is a matrix product of shape "
    "`(N, V)`, to which the other two fit by broadcasting.",
    remark="A tensor of all differences, `(N, V, C)`, gives the same answer and needs $C$ times the memory; this "
    "form is the package's. The term $\\|z\\|^2$ could go, since it is the same for all codes.",
    cases=(
        (
            "numbers and the eight codes of the toy",
            _ask_nearest(torch.tensor([[3.6], [-1.2], [9.0]]), TOY_CODES[:, None]),
        ),
        (
            "two channels, three codes",
            _ask_nearest(torch.tensor([[1.0, 1], [-2, 0.5]]), torch.tensor([[0.0, 5], [2, 2], [-1, 0]])),
        ),
        ("fifty vectors, sixty-four codes", _ask_nearest(VECTORS, CODES)),
    ),
    mistakes=(
        ("The largest product is not the smallest distance: a long code wins it from anywhere.", _by_product),
        ("Directions are compared here. That is LlamaGen's rule; here lengths count.", _by_direction),
        ("Each code has looked for its nearest vector; each vector is to look for its nearest code.", _from_codes),
        ("These are the farthest codes.", _farthest),
        ("Differences are added up here; they are squared first.", _by_blocks),
        ("The codes are returned; a token is the index of one.", _nearest_code_itself),
    ),
)

# A pyramid, written -----------------------------------------------------------------------------------------------


def pyramid_encode(f, codebook, grids, up, phis):
    """Tokens of f (B, C, h, w), K of shape (B, h_k * w_k), and their sum f_hat, of f's shape."""
    residual, f_hat, tokens = f, torch.zeros_like(f), []
    for grid, phi in zip(grids, phis, strict=True):
        z = F.interpolate(residual, size=grid, mode="area").flatten(2).transpose(1, 2)  # (B, h_k * w_k, C)
        tokens.append(torch.cdist(z, codebook).argmin(-1))
        codes = codebook[tokens[-1]].transpose(1, 2).unflatten(2, grid)  # (B, C, h_k, w_k)
        added = phi(up(codes, grids[-1]))
        residual, f_hat = residual - added, f_hat + added
    return tokens, f_hat


def _encode(
    f: Tensor,
    codebook: Tensor,
    grids: Sequence[Grid],
    up: Callable,
    phis: Sequence[Callable],
    afresh: bool = False,
    sampled: bool = False,
    reshaped: bool = False,
    plain_residual: bool = False,
    phi_first: bool = False,
    bare_end: bool = False,
) -> tuple[list[Tensor], Tensor]:
    residual, f_hat, tokens = f, torch.zeros_like(f), []
    for k, (grid, phi) in enumerate(zip(grids, phis, strict=True)):
        mode = "nearest" if sampled else "area"
        z = F.interpolate(f if afresh else residual, size=grid, mode=mode).flatten(2).transpose(1, 2)
        tokens.append(torch.cdist(z, codebook).argmin(-1))
        codes = codebook[tokens[-1]]
        codes = codes.reshape(len(f), -1, *grid) if reshaped else codes.transpose(1, 2).unflatten(2, grid)
        large = up(codes, grids[-1])
        added = up(phi(codes), grids[-1]) if phi_first else phi(large)
        if bare_end and k == len(grids) - 1:
            added = large
        residual, f_hat = residual - (large if plain_residual else added), f_hat + added
    return tokens, f_hat


def _ask_encode(f: Tensor, codebook: Tensor, sides: Sequence, up: Callable, phis: Sequence[Callable]) -> Callable:
    grids = [(side, side) if isinstance(side, int) else side for side in sides]

    def answer(function: Callable) -> Tensor:
        tokens, f_hat = function(f.clone(), codebook.clone(), grids, up, phis)
        return torch.cat([*(t.flatten().float() for t in tokens), f_hat.flatten()])

    return answer


FEATURES = torch.randn(2, 3, 4, 5, generator=_DRAW)
FEATURE_CODES = torch.randn(32, 3, generator=_DRAW)
OBLONG = ((1, 1), (2, 3), (4, 5))
WIDE = ((1, 2), (2, 3), (4, 5))

ENCODE = Exercise(
    pyramid_encode,
    title="A pyramid, written",
    stars=3,
    minutes=25,
    way_in="for each scale: average down, nearest code, up, phi, subtract",
    hint="`F.interpolate(residual, size=grid, mode='area')` averages, and leaves a map alone that has this size "
    "already. `flatten(2).transpose(1, 2)` turns `(B, C, h, w)` into vectors, `(B, h * w, C)`; the way back is "
    "`transpose(1, 2).unflatten(2, grid)`.",
    remark="At the last scale neither averaging nor enlarging changes anything, and the package skips both. It does "
    "not skip $\\phi$.",
    cases=(
        (
            "the toy, codes repeated",
            _ask_encode(TOY_MAP[None, None], TOY_CODES[:, None], (1, 2, 4), repeated, [same_map] * 3),
        ),
        ("three channels, bicubic", _ask_encode(FEATURES, FEATURE_CODES, OBLONG, bicubic, [same_map] * 3)),
        ("the same with phi", _ask_encode(FEATURES, FEATURE_CODES, OBLONG, bicubic, some_phis(3, 3))),
        ("a single scale with phi", _ask_encode(FEATURES, FEATURE_CODES, ((4, 5),), bicubic, some_phis(1, 3))),
    ),
    mistakes=(
        (
            "Every scale looks at f itself; from the second on it is to look at what is left.",
            partial(_encode, afresh=True),
        ),
        (
            "The residual is made smaller by keeping some cells; each cell is to hold the mean of its block.",
            partial(_encode, sampled=True),
        ),
        (
            "Looked-up codes lie as (B, h * w, C): a reshape mixes channels with cells, a transpose does not.",
            partial(_encode, reshaped=True),
        ),
        (
            "What is taken off the residual is not what was added to the sum: phi belongs to both.",
            partial(_encode, plain_residual=True),
        ),
        ("phi comes before the enlargement, which it is there to mend.", partial(_encode, phi_first=True)),
        (
            "The last scale goes without phi; only averaging and enlarging are idle there.",
            partial(_encode, bare_end=True),
        ),
    ),
)

# A pyramid, read --------------------------------------------------------------------------------------------------


def pyramid_decode(tokens, codebook, grids, up, phis):
    """f_hat (B, C, h_K, w_K): the sum of what the token maps (B, h_k * w_k) add; the first few will do."""
    f_hat = 0
    for picked, grid, phi in zip(tokens, grids, phis, strict=False):
        codes = codebook[picked].transpose(1, 2).unflatten(2, grid)
        f_hat = f_hat + phi(up(codes, grids[-1]))
    return f_hat


def _decode(
    tokens: Sequence[Tensor],
    codebook: Tensor,
    grids: Sequence[Grid],
    up: Callable,
    phis: Sequence[Callable],
    last: bool = False,
    mean: bool = False,
    phi_once: bool = False,
    step_by_step: bool = False,
    as_given: bool = False,
    bare: bool = False,
) -> Tensor:
    parts, end = [], grids[len(tokens) - 1] if as_given else grids[-1]
    f_hat: Tensor | None = None
    for k, picked in enumerate(tokens):
        codes = codebook[picked].transpose(1, 2).unflatten(2, grids[k])
        large = up(codes, end)
        parts.append(large if phi_once or bare else phis[k](large))
        f_hat = codes if f_hat is None else up(f_hat, grids[k]) + codes
    if step_by_step:
        return phis[len(tokens) - 1](up(f_hat, end))
    total = parts[-1] if last else sum(parts)
    if phi_once:
        total = phis[len(tokens) - 1](total)
    return total / len(tokens) if mean else total


def _ask_decode(codebook: Tensor, sides: Sequence, given: int, up: Callable, phis: Sequence[Callable]) -> Callable:
    grids = [(side, side) if isinstance(side, int) else side for side in sides]
    draw = torch.Generator().manual_seed(len(grids))
    tokens = [torch.randint(len(codebook), (2, h * w), generator=draw) for h, w in grids[:given]]
    return lambda function: function([t.clone() for t in tokens], codebook.clone(), grids, up, phis)


DECODE = Exercise(
    pyramid_decode,
    title="A pyramid, read",
    stars=1,
    minutes=8,
    way_in="look up, enlarge, phi, add",
    hint="`codebook[picked]` looks up a whole map at once, `(B, h * w, C)`.",
    remark="The sum has no order: the scales could be added in any sequence. It is writing that has to go from "
    "coarse to fine.",
    cases=(
        (
            "scales 1, 2, 4 of the toy, codes repeated",
            _ask_decode(TOY_CODES[:, None], (1, 2, 4), 3, repeated, [same_map] * 3),
        ),
        ("three channels, bicubic", _ask_decode(FEATURE_CODES, WIDE, 3, bicubic, [same_map] * 3)),
        ("the same with phi", _ask_decode(FEATURE_CODES, WIDE, 3, bicubic, some_phis(3, 3))),
        ("the first two of three scales", _ask_decode(FEATURE_CODES, WIDE, 2, bicubic, some_phis(3, 3))),
    ),
    mistakes=(
        (
            "Only the last map is here: each was written for what the coarser ones left, so all are added.",
            partial(_decode, last=True),
        ),
        ("This is the mean of the maps; f_hat is their sum.", partial(_decode, mean=True)),
        (
            "The sum grows from grid to grid; every map is enlarged to the last grid at once.",
            partial(_decode, step_by_step=True),
        ),
        ("phi is applied once, to the sum: each scale has its own.", partial(_decode, phi_once=True)),
        ("Without phi: it belongs to what a scale adds.", partial(_decode, bare=True)),
        ("With fewer maps f_hat keeps its size, that of the last grid of all.", partial(_decode, as_given=True)),
    ),
)
