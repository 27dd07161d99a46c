"""Exercises of chapter 05: the block-causal mask, the inputs, cosine attention, the block with AdaLN."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# The mask ---------------------------------------------------------------------------------------------------------


def may_look(grids):
    """K grids (h, w) -> bool (L, L): True where the token of the row may look at that of the column."""
    level = torch.cat([torch.full((h * w,), k) for k, (h, w) in enumerate(grids)])
    return level[None, :] <= level[:, None]


def _may_look(grids, rule: str = "no finer", square: bool = False) -> Tensor:
    level = torch.cat([torch.full((h * h if square else h * w,), k) for k, (h, w) in enumerate(grids)])
    query, key = level[:, None], level[None, :]
    rules = {"no finer": key <= query, "coarser": key < query, "own": key == query, "no coarser": key >= query}
    return torch.ones(len(level), len(level)).tril().bool() if rule == "causal" else rules[rule]


def _ask_mask(*grids: tuple[int, int]):
    return lambda function: torch.as_tensor(function(list(grids))).float()


MAY_LOOK = Exercise(
    may_look,
    title="The block-causal mask",
    stars=1,
    minutes=10,
    way_in="give each token the number of its scale, and compare",
    hint="Make a tensor with the level of each of the L tokens. As a column, `[:, None]`, it is that of the query; "
    "as a row, `[None, :]`, that of the key; one comparison of the two gives the table.",
    remark="`ScaleSchedule.block_causal_mask` is this.",
    cases=(
        ("scales of side 1 and 2", _ask_mask((1, 1), (2, 2))),
        ("scales of side 1, 2 and 3", _ask_mask((1, 1), (2, 2), (3, 3))),
        ("grids that are not square", _ask_mask((1, 1), (1, 2), (2, 4))),
        ("a first scale of four tokens", _ask_mask((2, 2), (3, 3))),
    ),
    mistakes=(
        ("That is the raster mask: within a scale everybody sees everybody.", partial(_may_look, rule="causal")),
        ("Rows and columns have changed places: a row is a query.", partial(_may_look, rule="no coarser")),
        ("A token may look at its own scale, not at coarser ones alone.", partial(_may_look, rule="coarser")),
        ("Only the own scale is seen; the coarser ones are what it is drawn from.", partial(_may_look, rule="own")),
        ("A grid of h x w has h times w tokens, and it need not be square.", partial(_may_look, square=True)),
    ),
)

# What the transformer reads ---------------------------------------------------------------------------------------


def teacher_inputs(contributions, grids):
    """K contributions (B, C, h_K, w_K), K pairs (h_k, w_k) -> inputs of scales 2 to K, (B, L - h_1 w_1, C)."""
    f_hat, rows = 0, []
    for contribution, grid in zip(contributions[:-1], grids[1:]):
        f_hat = f_hat + contribution
        rows.append(F.adaptive_avg_pool2d(f_hat, grid).flatten(2).transpose(1, 2))
    return torch.cat(rows, dim=1)


def _inputs(parts, grids, summed=True, shifted=True, how="area", order="cells") -> Tensor:
    f_hat, rows = 0, []
    for k, grid in enumerate(grids[1:]):
        f_hat = f_hat + parts[k] if summed else parts[k]
        shown = f_hat if shifted else f_hat + parts[k + 1]
        cells = F.interpolate(shown, size=grid, mode=how)
        if order == "columns":
            cells = cells.transpose(2, 3)
        flat = cells.flatten(2)
        rows.append(flat.reshape(len(flat), -1, flat.shape[1]) if order == "reshaped" else flat.transpose(1, 2))
    return torch.cat(rows, dim=1)


def _ask_inputs(*grids: tuple[int, int], last: float | None = None):
    draw = torch.Generator().manual_seed(len(grids))
    parts = [torch.randn(2, 3, *grids[-1], generator=draw) for _ in grids]
    if last is not None:
        parts[-1] = torch.full_like(parts[-1], last)
    return lambda function: function([part.clone() for part in parts], list(grids))


TEACHER_INPUTS = Exercise(
    teacher_inputs,
    title="What the transformer reads",
    stars=2,
    minutes=20,
    way_in="a running sum, averaged down to the grid that comes next",
    hint="After adding the contribution of a scale, average the sum down to the *next* grid with "
    '`F.adaptive_avg_pool2d` or `F.interpolate(..., mode="area")`; on the final grid both leave it unchanged. '
    "`flatten(2)` puts the cells in the last dimension, and the channels have to end up there.",
    remark="`VQVAE.teacher_inputs` begins with tokens and looks up what they contribute.",
    cases=(
        ("two scales", _ask_inputs((1, 1), (2, 2))),
        ("scales 1, 2 and 4", _ask_inputs((1, 1), (2, 2), (4, 4))),
        ("sides that do not divide the final grid", _ask_inputs((1, 1), (2, 2), (3, 3), (5, 5))),
        ("grids that are not square", _ask_inputs((1, 1), (1, 2), (2, 4))),
        ("a last scale of NaN: nobody may read it", _ask_inputs((1, 1), (2, 2), (4, 4), last=math.nan)),
    ),
    mistakes=(
        ("A scale reads the sum of all coarser scales, not the last of them.", partial(_inputs, summed=False)),
        (
            "A scale reads its own contribution, which is the answer: the shift is missing.",
            partial(_inputs, shifted=False),
        ),
        (
            "Cells are picked out of f_hat; each should be the mean of the area it covers.",
            partial(_inputs, how="nearest"),
        ),
        (
            "Cells are interpolated bilinearly; each should be the mean of the area it covers.",
            partial(_inputs, how="bilinear"),
        ),
        ("Cells and channels are mixed up: change their places, do not reshape.", partial(_inputs, order="reshaped")),
        ("Cells come column by column; tokens come row by row.", partial(_inputs, order="columns")),
    ),
)

# Attention --------------------------------------------------------------------------------------------------------


def cosine_attention(q, k, v, log_scale, mask):
    """q, k, v (B, H, l, E), the heads' s (H,), bool mask (l, l) of who may look at whom -> (B, H, l, E)."""
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    factor = log_scale.clamp_max(math.log(100)).exp()[:, None, None]
    scores = (factor * (q @ k.transpose(-2, -1))).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def _attention(
    q, k, v, log_scale, mask, unit=True, warm=True, bound=100.0, root=False, seen=False, axis=-1
) -> Tensor:
    if unit:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    factor = log_scale.clamp_max(math.log(bound)).exp() if warm else log_scale
    scores = factor[:, None, None] * (q @ k.transpose(-2, -1)) / (math.sqrt(q.shape[-1]) if root else 1)
    if not seen:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(axis) @ v


def _ask_attention(length: int, scales: tuple[float, ...], mask: str = "all", growth: float = 1.0, near: float = 0.0):
    draw = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, len(scales), length, 4, generator=draw, dtype=torch.float64)
    k = k + near  # keys that point nearly the same way, so that a large factor does not yet pick one of them
    s = torch.tensor(scales, dtype=torch.float64).log()
    looks = torch.ones(length, length, dtype=torch.bool) if mask == "all" else may_look([(1, 1), (2, 2)])
    return lambda function: function(growth * q, growth * k, v.clone(), s.clone(), looks.clone())


COSINE_ATTENTION = Exercise(
    cosine_attention,
    title="Cosine attention",
    stars=2,
    minutes=15,
    way_in="unit vectors, a bounded factor for each head, the mask, a softmax",
    hint="`x.norm(dim=-1, keepdim=True)` is the length to divide by. The factor has the shape (H,) and the scores "
    "have (B, H, l, l): give it two more dimensions. What must not be seen gets the score `-math.inf`.",
    remark="`models.var.Attention` leaves softmax and values to PyTorch, which does both at once.",
    cases=(
        ("one head with factor 4, three tokens", _ask_attention(3, (4.0,))),
        ("queries and keys ten times as long", _ask_attention(4, (4.0,), growth=10.0)),
        ("two heads with factors of their own", _ask_attention(4, (2.0, 7.0))),
        ("scales of side 1 and 2, with their mask", _ask_attention(5, (3.0, 5.0), "blocks")),
        ("a head whose s is beyond ln 100", _ask_attention(4, (4.0, 400.0), near=30.0)),
    ),
    mistakes=(
        ("The lengths of q and k still count: divide each by its norm.", partial(_attention, unit=False)),
        ("s is a logarithm: the factor is its exponential.", partial(_attention, warm=False)),
        ("Cosines are not divided by the root of the width.", partial(_attention, root=True)),
        (
            "The softmax runs over the queries: a row is one query, its weights sum to 1.",
            partial(_attention, axis=-2),
        ),
        ("Nothing is masked: tokens look at finer scales.", partial(_attention, seen=True)),
        ("Nothing stops the factor at 100.", partial(_attention, bound=1e9)),
    ),
)

# The block --------------------------------------------------------------------------------------------------------


def modulated_block(x, c, weight, bias, attention, mlp):
    """x (B, l, D), class embedding c (B, D), the map's W (6 D, D) and w (6 D,), two functions of x -> (B, l, D)."""

    def norm(x):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    six = F.silu(c) @ weight.T + bias
    gamma1, gamma2, s1, s2, b1, b2 = six[:, None].chunk(6, dim=-1)
    x = x + gamma1 * attention(norm(x) * (1 + s1) + b1)
    return x + gamma2 * mlp(norm(x) * (1 + s2) + b2)


def _block(
    x, c, weight, bias, attention, mlp,
    one=1.0, silu=True, order=(0, 1, 2, 3, 4, 5), gates=True, stream=True, norm=True, at_once=False,
) -> Tensor:  # fmt: skip
    six = ((F.silu(c) if silu else c) @ weight.T + bias)[:, None].chunk(6, dim=-1)
    gamma1, gamma2, s1, s2, b1, b2 = (six[i] for i in order)
    if not gates:
        gamma1 = gamma2 = torch.ones_like(gamma1)

    def branch(x, function, s, b):
        return function((F.layer_norm(x, x.shape[-1:], eps=1e-6) if norm else x) * (one + s) + b)

    first = gamma1 * branch(x, attention, s1, b1)
    after = x + first if stream else first
    second = gamma2 * branch(x if at_once else after, mlp, s2, b2)
    return after + second if stream else second


def _ask_block(open_gates: bool, tokens: int, attends: bool = True, thinks: bool = True):
    draw = torch.Generator().manual_seed(tokens)
    x, c = (torch.randn(2, *shape, generator=draw, dtype=torch.float64) for shape in ((tokens, 4), (4,)))
    weight, bias = (torch.randn(24, *shape, generator=draw, dtype=torch.float64) for shape in ((4,), ()))
    if not open_gates:
        weight[:8], bias[:8] = 0, 0

    def mixing(z):
        return z.cumsum(1).flip(-1) if attends else torch.zeros_like(z)

    def thinking(z):
        return z.sin() + z if thinks else torch.zeros_like(z)

    return lambda function: function(x.clone(), c.clone(), weight.clone(), bias.clone(), mixing, thinking)


MODULATED_BLOCK = Exercise(
    modulated_block,
    title="A block that the class turns",
    stars=2,
    minutes=20,
    way_in="six vectors, then two branches beside the stream",
    hint="`(F.silu(c) @ weight.T + bias)[:, None].chunk(6, dim=-1)` gives the six, in the order of the equation, "
    "each (B, 1, D), ready to act on all tokens. `F.layer_norm(x, x.shape[-1:], eps=1e-6)` has no parameters.",
    remark="`models.var.Block` is this, with dropped branches in training.",
    cases=(
        ("gates that are shut: x comes back", _ask_block(False, 3)),
        ("attention alone, one token", _ask_block(True, 1, thinks=False)),
        ("the MLP alone", _ask_block(True, 2, attends=False)),
        ("both branches, five tokens", _ask_block(True, 5)),
    ),
    mistakes=(
        ("The branch's result replaces x: it is added to it.", partial(_block, stream=False)),
        ("The gates are missing: each branch is multiplied by its gamma.", partial(_block, gates=False)),
        ("The norm is multiplied by s; the equation has 1 + s.", partial(_block, one=0.0)),
        ("The class embedding goes through SiLU first.", partial(_block, silu=False)),
        ("The branches read x as it is: the layer norm is missing.", partial(_block, norm=False)),
        (
            "The six come in another order: gates first, then scales, then shifts.",
            partial(_block, order=(4, 5, 2, 3, 0, 1)),
        ),
        (
            "The six come in another order: gates first, then scales, then shifts.",
            partial(_block, order=(2, 5, 1, 4, 0, 3)),
        ),
        (
            "The six come in another order: both gates, both scales, both shifts.",
            partial(_block, order=(0, 3, 1, 4, 2, 5)),
        ),
        (
            "The six come in another order: gates, then scales, then shifts.",
            partial(_block, order=(0, 1, 4, 5, 2, 3)),
        ),
        ("The MLP reads what came before attention: the branches follow one another.", partial(_block, at_once=True)),
    ),
)
