"""Exercises of chapter 16: mistakes that targets undo, tokens drawn in parts, bits for codes, and any order."""

from functools import partial

import torch

from minivar.book.exercises.exercise import Exercise

# Self-correction --------------------------------------------------------------------------------------------------


def lessons(f, nearest, contribution, mistakes, scales):
    """Features f (N,), nearest(rest, k) -> token, contribution(token, k) -> (N,), mistakes {k: token}, so many scales
    -> what is to be predicted at each scale, and what is seen there: the sum before it, (N,) each."""
    targets, seen = [], []
    f_hat = torch.zeros_like(f)
    for k in range(scales):
        seen.append(f_hat)
        targets.append(nearest(f - f_hat, k))
        f_hat = f_hat + contribution(mistakes.get(k, targets[k]), k)
    return targets, seen


def _lessons(f, nearest, contribution, mistakes, scales, blind=False, late=False, wrong=False, ignored=False):
    targets, seen = [], []
    right, counted = torch.zeros_like(f), torch.zeros_like(f)
    for k in range(scales):
        token = nearest(f - (right if late else counted), k)
        taken = token if ignored else mistakes.get(k, token)
        seen.append(right if blind else counted)
        targets.append(taken if wrong else token)
        right, counted = right + contribution(token, k), counted + contribution(taken, k)
    return targets, seen


STEPS = (4.0, 1.0, 0.25)  # what token 1 of each scale is worth, for all of it, its halves, its quarters


def _nearest(rest, k: int) -> tuple[int, ...]:
    return tuple(round(value / STEPS[k]) for value in rest.view(2**k, -1).mean(1).tolist())


def _contribution(token, k: int):
    return torch.tensor(token).repeat_interleave(4 // 2**k) * STEPS[k]


def _ask_lessons(mistakes: dict[int, tuple[int, ...]], f=(5.0, 4.25, 2.0, 2.5)):
    def ask(function):
        targets, seen = function(torch.tensor(f), _nearest, _contribution, mistakes, 3)
        return [tuple(target) for target in targets], [each.tolist() for each in seen]

    return ask


LESSONS = Exercise(
    lessons,
    title="Targets that undo mistakes",
    stars=2,
    minutes=12,
    way_in="three lines in the loop: what is seen, what is nearest to the rest, what is added",
    hint="The rest is what the sum *so far* lacks, and the sum has the mistaken token in it. The target of the scale "
    "itself is still the right one.",
    remark="`quantizer.encode_with_mistakes` does this for whole batches.",
    cases=(
        ("no mistake", _ask_lessons({})),
        ("a mistake at the first scale", _ask_lessons({0: (2,)})),
        ("a mistake at the second", _ask_lessons({1: (1, 1)})),
        ("one at each of both", _ask_lessons({0: (0,), 1: (0, 0)})),
    ),
    mistakes=(
        ("What is seen must hold the mistake: it is what a drawing would see.", partial(_lessons, blind=True)),
        (
            "The rest is taken from the sum with the mistake in it, or nothing is corrected.",
            partial(_lessons, late=True),
        ),
        ("Predict the right token at its own scale: a mistake is no target.", partial(_lessons, wrong=True)),
        ("A mistaken token takes the place of the right one in the sum.", partial(_lessons, ignored=True)),
    ),
)

# In parts ---------------------------------------------------------------------------------------------------------


def drawn_in_parts(draw, order, parts):
    """draw(tokens, known) -> tokens of all N positions; order (N,) a permutation; so many parts -> tokens (N,).

    Unknown tokens are 0. Parts are as equal as can be, those with one more first (torch.tensor_split).
    """
    tokens, known = torch.zeros_like(order), torch.zeros(len(order), dtype=torch.bool)
    for part in order.tensor_split(parts):
        tokens[part] = draw(tokens, known)[part]
        known[part] = True
    return tokens


def _in_parts(draw, order, parts, hidden=False, everything=False, sized=False, straight=False):
    tokens, known = torch.zeros_like(order), torch.zeros(len(order), dtype=torch.bool)
    order = torch.arange(len(order)) if straight else order
    for part in order.split(parts) if sized else order.tensor_split(parts):
        drawn = draw(torch.zeros_like(tokens) if hidden else tokens, torch.zeros_like(known) if hidden else known)
        tokens = drawn.clone() if everything else tokens.index_copy(0, part, drawn[part])
        known[part] = True
    return tokens


def _ask_parts(order: list[int], parts: int):
    def draw(tokens, known):  # each token says how many were known, and their sum
        return torch.arange(len(order)) + 10 * int(known.sum()) + 100 * int((tokens * known).sum())

    return lambda function: function(draw, torch.tensor(order), parts).tolist()


DRAWN_IN_PARTS = Exercise(
    drawn_in_parts,
    title="A scale in parts",
    stars=2,
    minutes=10,
    way_in="for part in order.tensor_split(parts)",
    hint="Ask for all positions, keep those of the part, and mark them as known before you ask again.",
    remark="`sample_economically` with `Economy(sub_steps=...)` does this at the last scale.",
    cases=(
        ("all at once", _ask_parts([0, 1, 2, 3], 1)),
        ("two parts", _ask_parts([2, 0, 3, 1], 2)),
        ("one by one", _ask_parts([1, 0, 2], 3)),
        ("parts that are not equal", _ask_parts([4, 2, 0, 1, 3], 2)),
    ),
    mistakes=(
        ("The next part must see what the last one drew.", partial(_in_parts, hidden=True)),
        ("Keep only the positions of the part: the others are drawn later.", partial(_in_parts, everything=True)),
        ("`parts` says how many parts, not how long they are.", partial(_in_parts, sized=True)),
        ("The parts are cut from `order`, not from the rows of the grid.", partial(_in_parts, straight=True)),
    ),
)

# Bits -------------------------------------------------------------------------------------------------------------


def corner_bits(z):
    """Vectors z (B, d) -> the nearest corners of a cube in the unit sphere (B, d), and their numbers, int64 (B,).

    Bit i, worth 2^i, is set where z_i > 0.
    """
    d = z.shape[1]
    on = z > 0
    return (on * 2 - 1) / d**0.5, (on * 2 ** torch.arange(d)).sum(1)


def _bits(z, unit: bool = True, zeros: bool = False, reverse: bool = False):
    d, on = z.shape[1], z > 0
    corner = torch.sign(z) if zeros else on * 2.0 - 1
    powers = 2 ** torch.arange(d)
    return corner / (d**0.5 if unit else 1), (on * (powers.flip(0) if reverse else powers)).sum(1)


def _counted(z):
    return _bits(z)[0], (z > 0).sum(1)


def _ask_bits(*z: list[float]):
    def ask(function):
        corner, number = function(torch.tensor(z))
        return [[round(value, 5) for value in row] for row in corner.tolist()], number.tolist()

    return ask


BITS = Exercise(
    corner_bits,
    title="Bits for codes",
    stars=1,
    minutes=8,
    way_in="where z > 0, which corner, which number",
    hint="A corner has only plus and minus one, divided by the square root of d: then its length is 1.",
    remark="There is no codebook to search, and none to collapse: the nearest of $2^d$ codes is found by $d$ signs.",
    cases=(
        ("one bit", _ask_bits([0.3], [-2.0])),
        ("three bits", _ask_bits([0.3, -0.1, 2.0], [-1.0, 5.0, -0.2])),
        ("a zero counts as below", _ask_bits([0.0, 1.0])),
    ),
    mistakes=(
        ("The corners lie on the unit sphere: divide by the square root of d.", partial(_bits, unit=False)),
        ("A corner has no zeros: what is not above zero is below.", partial(_bits, zeros=True)),
        ("Bit 0 is worth 1, bit 1 is worth 2, bit 2 is worth 4.", partial(_bits, reverse=True)),
        ("A number for every corner: bit i is worth 2^i.", _counted),
    ),
)

# Any order --------------------------------------------------------------------------------------------------------


def in_any_order(tokens, order):
    """Tokens (N,) of a grid in raster order, and a permutation (N,) -> (seen, wanted, places), N entries each.

    wanted[i] is the i-th token in the new order, places[i] where in the grid it belongs, seen[i] the token that comes
    before it in the new order; before the first, -1.
    """
    wanted = tokens[order]
    seen = torch.cat([torch.tensor([-1]), wanted[:-1]])
    return seen, wanted, order


def _any_order(tokens, order, own=False, raster=False, inverse=False):
    chosen = order.argsort() if inverse else order
    wanted = tokens[chosen]
    before = tokens if raster else wanted
    seen = torch.cat([torch.tensor([-1]), before[:-1]])
    places = torch.cat([torch.tensor([-1]), chosen[:-1]]) if own else chosen
    return seen, wanted, places


def _in_place(tokens, order):
    return _any_order(tokens, order)[:2] + (torch.arange(len(order)),)


def _ask_order(order: list[int]):
    tokens = torch.tensor([50, 51, 52, 53, 54, 55])[: len(order)]
    return lambda function: [part.tolist() for part in function(tokens, torch.tensor(order))]


IN_ANY_ORDER = Exercise(
    in_any_order,
    title="Any order",
    stars=2,
    minutes=10,
    way_in="wanted = tokens[order]; what comes before each of them?",
    hint="A model cannot predict a token whose place it does not know: the place is part of the question.",
    remark="RAR adds an embedding of the *next* place to each token for this reason, and drops it when training ends "
    "in raster order, where the next place is always one further.",
    cases=(
        ("raster order", _ask_order([0, 1, 2, 3])),
        ("backwards", _ask_order([3, 2, 1, 0])),
        ("some other order", _ask_order([2, 5, 0, 3, 1, 4])),
    ),
    mistakes=(
        ("`places` says where the *wanted* token belongs, not the one that is seen.", partial(_any_order, own=True)),
        ("What is seen comes before in the new order, not in the grid.", partial(_any_order, raster=True)),
        ("`order` lists places in the order of drawing; you have inverted it.", partial(_any_order, inverse=True)),
        ("The places are those of the grid: they move with the tokens.", _in_place),
    ),
)
