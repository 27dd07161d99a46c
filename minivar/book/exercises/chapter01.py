"""Exercises of chapter 01: a map of codes, bits, directions, the straight-through estimator, the quantiser's loss."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

_DRAW = torch.Generator().manual_seed(0)
FEATURES, CODES = torch.randn(50, 8, generator=_DRAW), torch.randn(20, 8, generator=_DRAW)
MAP = torch.randn(2, 8, 3, 5, generator=_DRAW)
SMALL, PICKED, WISH = torch.randn(3, 2, 4, 2, 3, generator=_DRAW)  # features, codes, what the decoder would change


def gradients_of(output: Tensor, *leaves: Tensor) -> Tensor:
    """What flows back to each leaf, as one vector: zeros where nothing does."""
    if output.requires_grad:
        output.backward()
    return torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten() for x in leaves])


# The nearest code, of every cell of a map --------------------------------------------------------------------------


def quantise(z, codebook):
    """Map of features (B, C, h, w), codebook (V, C) -> tokens (B, h * w) and the map of their codes (B, C, h, w)."""
    vectors = z.permute(0, 2, 3, 1)  # (B, h, w, C)
    distances = vectors.square().sum(-1, keepdim=True) + codebook.square().sum(1) - 2 * vectors @ codebook.T
    tokens = distances.argmin(-1)
    return tokens.flatten(1), codebook[tokens].permute(0, 3, 1, 2)


def _quantise(z, codebook, flat=False, measure="square", detached=False, as_is=False) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = z.shape
    vectors = z.reshape(-1, channels) if flat else z.permute(0, 2, 3, 1).flatten(0, 2)
    scores = {
        "square": -torch.cdist(vectors, codebook),
        "product": vectors @ codebook.T,
        "far": torch.cdist(vectors, codebook),
        "blocks": -torch.cdist(vectors, codebook, p=1),
    }[measure]
    tokens = scores.argmax(1)
    q = (codebook.detach() if detached else codebook)[tokens].view(batch, height, width, -1)
    return tokens.view(batch, -1), q if as_is else q.permute(0, 3, 1, 2)


def _ask_map(z: Tensor, codebook: Tensor, part: int) -> Callable:
    return lambda function: function(z.clone(), codebook.clone())[part]


def _ask_codebook(function: Callable) -> Tensor:
    codebook = CODES.clone().requires_grad_()
    return gradients_of(function(MAP.clone(), codebook)[1].sum(), codebook)


ON_PAPER = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1)

QUANTISE = Exercise(
    quantise,
    title="The nearest code",
    stars=2,
    minutes=12,
    way_in="channels last, a distance to every code, argmin, and the way back to a map",
    hint="`z.permute(0, 2, 3, 1)` has the channels last, so that `@ codebook.T` takes all cells at once.",
    cases=(
        (
            "the token of one cell, three codes",
            _ask_map(ON_PAPER, torch.tensor([[2.0, 0.0], [6.0, 4.0], [-3.0, -3.0]]), 0),
        ),
        ("the tokens of two maps of 3 x 5 cells", _ask_map(MAP, CODES, 0)),
        ("their codes", _ask_map(MAP, CODES, 1)),
        ("what flows back to the codebook", _ask_codebook),
    ),
    mistakes=(
        (
            "The channels of a cell lie in dimension 1: they have to come last before cells become rows.",
            partial(_quantise, flat=True),
        ),
        (
            "The largest scalar product favours long codes: the squared distance has |e|^2 in it, too.",
            partial(_quantise, measure="product"),
        ),
        ("This is the code that is farthest away.", partial(_quantise, measure="far")),
        ("Distances are sums of squares, not of absolute values.", partial(_quantise, measure="blocks")),
        ("The codes come back as a map, channels in dimension 1.", partial(_quantise, as_is=True)),
        (
            "The codes have lost their way back to the codebook: then nothing can move it.",
            partial(_quantise, detached=1),
        ),
    ),
)

# Bits -------------------------------------------------------------------------------------------------------------


def compression(height, width, channels, stride, codebook_size):
    """Raw bits of an image, 8 for each pixel and channel, divided by the bits of its tokens."""
    tokens = math.ceil(height / stride) * math.ceil(width / stride)
    return 8 * height * width * channels / (tokens * math.log2(codebook_size))


def _compression(height, width, channels, stride, V, cut=False, padded=False, a_token="bits", bits=8, inverse=False):
    rows, columns = (side // stride if cut else math.ceil(side / stride) for side in (height, width))
    size = {"bits": math.log2(V), "codes": V, "nats": math.log(V)}[a_token]
    if padded:
        height, width = rows * stride, columns * stride
    ratio = bits * height * width * channels / (rows * columns * size)
    return 1 / ratio if inverse else ratio


def _ask_image(*image: int) -> Callable:
    return lambda function: float(function(*image))


COMPRESSION = Exercise(
    compression,
    title="Compression",
    stars=1,
    minutes=5,
    way_in="raw bits / (tokens * log2(V))",
    remark="Doubling the stride leaves a quarter of the tokens; doubling the codebook adds one bit to each.",
    cases=(
        ("a 28 x 28 digit, stride 4, 512 codes", _ask_image(28, 28, 1, 4, 512)),
        ("LlamaGen at 256 pixels, three channels", _ask_image(256, 256, 3, 16, 16384)),
        ("an image that is not square", _ask_image(64, 32, 3, 8, 1024)),
        ("sides of 30 pixels, stride 4", _ask_image(30, 30, 1, 4, 16)),
    ),
    mistakes=(
        ("A cell at the border that is only partly filled needs a token as well.", partial(_compression, cut=True)),
        ("The image is padded for the encoder; its raw size is what it was.", partial(_compression, padded=True)),
        ("A token of V codes takes log2(V) bits, not V.", partial(_compression, a_token="codes")),
        ("These are natural logarithms: bits have those of base 2.", partial(_compression, a_token="nats")),
        ("A raw value takes 8 bits, not one.", partial(_compression, bits=1)),
        ("Upside down: raw bits come above.", partial(_compression, inverse=True)),
    ),
)

# Directions -------------------------------------------------------------------------------------------------------


def sphere_lookup(features, codebook):
    """Features (N, C), codes (V, C), of any length -> index (N,) of the code with the most similar direction."""
    return (features @ F.normalize(codebook, dim=1).T).argmax(1)


def _sphere_lookup(features, codebook, points=False, codes=True, dim=1, largest=True) -> Tensor:
    if points:
        return torch.cdist(features, codebook).argmin(1)
    cosines = F.normalize(features, dim=1) @ (F.normalize(codebook, dim=dim) if codes else codebook).T
    return cosines.argmax(1) if largest else cosines.argmin(1)


def _ask_directions(features: Tensor, codebook: Tensor) -> Callable:
    return lambda function: function(features.clone(), codebook.clone())


SPHERE_LOOKUP = Exercise(
    sphere_lookup,
    title="Look-up on the sphere",
    stars=1,
    minutes=8,
    way_in="one matrix product, one F.normalize",
    hint="Does the length of a *feature* influence which code has the largest scalar product with it?",
    remark="The length of a feature multiplies all its products alike; only the loss of section 5 needs it to be 1.",
    cases=(
        (
            "fifty features, twenty codes of lengths from .01 to 100",
            _ask_directions(FEATURES, CODES * torch.logspace(-2, 2, 20)[:, None]),
        ),
        ("features a thousand times longer", _ask_directions(FEATURES * 1000, CODES)),
        ("the two codes above", _ask_directions(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.0], [0.0, 10.0]]))),
    ),
    mistakes=(
        (
            "This compares points: a code far out never wins, however well it points.",
            partial(_sphere_lookup, points=True),
        ),
        ("The longest codes win too often: are the codes of length 1?", partial(_sphere_lookup, codes=False)),
        ("It is each code that gets length 1, not each channel.", partial(_sphere_lookup, dim=0)),
        ("The most similar direction has the largest cosine.", partial(_sphere_lookup, largest=False)),
    ),
)

# Learning ---------------------------------------------------------------------------------------------------------


def straight_through(z, q):
    """Features and their codes, of one shape -> the value of q, with the derivative 1 to z and none to q."""
    return z + (q - z).detach()


def _ask_value(function: Callable) -> Tensor:
    return function(SMALL.clone(), PICKED.clone()).detach()


def _ask_way_back(function: Callable) -> Tensor:
    z, q = SMALL.clone().requires_grad_(), PICKED.clone().requires_grad_()
    return gradients_of((function(z, q) * WISH).sum(), z, q)


STRAIGHT_THROUGH = Exercise(
    straight_through,
    title="Straight through",
    stars=2,
    minutes=8,
    way_in="z + sg[q - z]",
    hint="`x.detach()` is $\\mathrm{sg}[x]$.",
    remark="`q` gets no gradient here, which is the first of the two gaps below.",
    cases=(
        ("the value", _ask_value),
        ("what flows back to features and codes", _ask_way_back),
    ),
    mistakes=(
        ("The sign in the bracket: z + (q - z) is q.", lambda z, q: z + (z - q).detach()),
        (
            "The value is right, but the decoder's wish reaches the code, not the feature: what has to be constant?",
            lambda z, q: z + (q - z),
        ),
        (
            "The value is right, but nothing flows back: z outside the bracket is no constant.",
            lambda z, q: q.detach(),
        ),
        ("Going forward, the decoder has to receive the code, not the feature.", lambda z, q: q + (z - q).detach()),
        ("The value is right, but the code gets the wish as well as the feature.", lambda z, q: z + q - z.detach()),
    ),
)


def quantizer_loss(z, q, beta):
    """Features and their codes, of one shape -> codebook loss plus beta times commitment loss, means of squares."""
    codebook = F.mse_loss(q, z.detach())
    commitment = F.mse_loss(q.detach(), z)
    return codebook + beta * commitment


def _quantizer_loss(z, q, beta, stopped=True, swapped=False, reduction="mean", commitment=True) -> Tensor:
    fixed_z, fixed_q = (z.detach(), q.detach()) if stopped else (z, q)
    to_codes, to_features = F.mse_loss(q, fixed_z, reduction=reduction), F.mse_loss(fixed_q, z, reduction=reduction)
    if swapped:
        return beta * to_codes + to_features
    return to_codes + beta * to_features if commitment else to_codes


def _ask_loss(beta: float, gradients: bool) -> Callable:
    def answer(function: Callable) -> Tensor:
        z, q = SMALL.clone().requires_grad_(), PICKED.clone().requires_grad_()
        loss = function(z, q, beta)
        return gradients_of(loss, z, q) if gradients else loss.detach()

    return answer


QUANTIZER_LOSS = Exercise(
    quantizer_loss,
    title="Two losses with one value",
    stars=2,
    minutes=10,
    way_in="two mean squares, with one detach in each",
    hint="In each term, the side that is to stay where it is gets the `.detach()`.",
    remark="Without the stops both sides would be pulled by $1 + \\beta$.",
    cases=(
        ("its value with beta = 0.25", _ask_loss(0.25, False)),
        ("what flows back to features and codes", _ask_loss(0.25, True)),
        ("the same with beta = 0", _ask_loss(0.0, True)),
    ),
    mistakes=(
        ("Squares are averaged over all elements, not summed.", partial(_quantizer_loss, reduction="sum")),
        (
            "The second term is missing: nothing would keep the features near.",
            partial(_quantizer_loss, commitment=False),
        ),
        (
            "The value is right, but both sides are pulled by 1 + beta: where are the stops?",
            partial(_quantizer_loss, stopped=False),
        ),
        (
            "The value is right, but beta weighs the term that moves the codes.",
            partial(_quantizer_loss, swapped=True),
        ),
    ),
)
