"""Exercises of chapter 06a: weights for lopsided data, classes with three names, when to stop, copies."""

from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# Balance ----------------------------------------------------------------------------------------------------------


def balanced_weights(drawing, group):
    """int64 drawing (N,) and group (N,) of every picture -> weights (N,) that add up to 1."""
    weight = 1 / torch.bincount(drawing)[drawing].double()
    size = torch.bincount(group, weights=weight)  # drawings of each group
    weight = weight / size[group].sqrt()
    return weight / weight.sum()


def _weights(drawing, group, tones=True, power=0.5, pictures=False, unit=True) -> Tensor:
    weight = 1 / torch.bincount(drawing)[drawing].double()
    weight = weight if tones else torch.ones_like(weight)
    size = torch.bincount(group).double() if pictures else torch.bincount(group, weights=weight)
    weight = weight / size[group] ** power
    return weight / weight.sum() if unit else weight


def _ask_set(drawing: list[int], group: list[int]):
    return lambda function: function(torch.tensor(drawing), torch.tensor(group)).double()


PEOPLE = ([0, 0, 0, 0, 1, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1])

BALANCED_WEIGHTS = Exercise(
    balanced_weights,
    title="Balance",
    stars=2,
    minutes=12,
    way_in="1 / tones of the drawing, then / sqrt of the group's drawings, then to a sum of 1",
    hint="`torch.bincount(drawing)[drawing]` says of each picture how many show its drawing; with `weights=` "
    "bincount adds up weights.",
    remark="`data.balanced` turns such weights into numbers of copies.",
    cases=(
        ("one drawing in four skin tones, another in one", _ask_set([0, 0, 0, 0, 1], [0] * 5)),
        ("two groups, of one drawing and of four", _ask_set([0, 1, 2, 3, 4], [0, 1, 1, 1, 1])),
        ("skin tones in one group, none in the other", _ask_set(*PEOPLE)),
    ),
    mistakes=(
        ("All skin tones of a drawing have one weight together.", partial(_weights, tones=False)),
        ("A group weighs as much as the root of its drawings: divide by the root.", partial(_weights, power=1.0)),
        ("Groups are not balanced at all.", partial(_weights, power=0.0)),
        ("A group counts its drawings, not its pictures.", partial(_weights, pictures=True)),
        ("The weights add up to 1.", partial(_weights, unit=False)),
    ),
)

# Names ------------------------------------------------------------------------------------------------------------


def class_of(group, subgroup, style, finest):
    """The class of an emoji's name; style None: left open; finest: by subgroup. 9 groups, 2 styles."""
    if style is None:
        return group
    return 9 + 2 * 9 + 2 * subgroup + style if finest else 9 + 2 * group + style


def _class(group, subgroup, style, finest, before=27, blocks=False) -> int:
    if style is None:
        return group
    if blocks:
        return 27 + 98 * style + subgroup if finest else 9 + 9 * style + group
    return before + 2 * subgroup + style if finest else 9 + 2 * group + style


def _ask_name(*name):
    return lambda function: int(function(*name))


CLASS_OF = Exercise(
    class_of,
    title="Three names for one picture",
    stars=1,
    minutes=6,
    way_in="first the groups, then group and style, then subgroup and style",
    cases=(
        ("Food & Drink (group 3), style open", _ask_name(3, 30, None, False)),
        ("the same in the first style", _ask_name(3, 30, 0, False)),
        ("the same in the second style", _ask_name(3, 30, 1, False)),
        ("a subgroup, number 30, in the first style", _ask_name(3, 30, 0, True)),
        ("the last of all, subgroup 97 in the second style", _ask_name(8, 97, 1, True)),
    ),
    mistakes=(
        ("The names of groups and styles come before those of subgroups.", partial(_class, before=9)),
        ("Styles alternate: the two of a group stand side by side.", partial(_class, blocks=True)),
        ("With a style the name is another class.", lambda group, subgroup, style, finest: group),
    ),
)

# When to stop -----------------------------------------------------------------------------------------------------


def stop_at(steps, heldout, patience):
    """The step whose weights are kept: of the lowest loss before it has not improved for patience entries."""
    best = 0
    for i, loss in enumerate(heldout):
        if loss < heldout[best]:
            best = i
        elif i - best >= patience:
            break
    return steps[best]


def _stop(steps, heldout, patience, first=False, last=False, forever=False) -> int:
    best = 0
    for i, loss in enumerate(heldout):
        if loss < heldout[best]:
            best = i
        elif not forever and i - best >= (1 if first else patience):
            return steps[i if last else best]
    return steps[best]


def _ask_curve(heldout: list[float], patience: int):
    steps = [100 * (i + 1) for i in range(len(heldout))]
    return lambda function: int(function(steps, list(heldout), patience))


STOP_AT = Exercise(
    stop_at,
    title="When to stop",
    stars=1,
    minutes=8,
    way_in="remember the best; end when it is patience entries ago",
    cases=(
        ("a loss that falls to the end", _ask_curve([5, 4, 3.5, 3.2], 2)),
        ("a loss that turns", _ask_curve([5, 4, 3.5, 3.6, 3.7, 3.8], 2)),
        ("a bump on the way down", _ask_curve([5, 4, 4.1, 3.5, 3.4, 3.6, 3.9], 2)),
        ("a fall that comes after patience has ended", _ask_curve([5, 4, 4.2, 4.3, 4.4, 3.0], 3)),
    ),
    mistakes=(
        ("One worse entry is no end: have patience.", partial(_stop, first=True)),
        ("The weights that are kept are the best ones, not those of the moment it stops.", partial(_stop, last=True)),
        ("Patience has an end: what comes later is not seen.", partial(_stop, forever=True)),
    ),
)

# Copies -----------------------------------------------------------------------------------------------------------


def nearest_known(images, known):
    """Root mean squared distance (N,) to the nearest of known (M, ...), and which it is (N,)."""
    distances = torch.cdist(images.flatten(1), known.flatten(1)) / known[0].numel() ** 0.5
    return distances.min(1)


def _nearest(images, known, mean=True, axis=1, far=False):
    distances = torch.cdist(images.flatten(1), known.flatten(1))
    distances = distances / known[0].numel() ** 0.5 if mean else distances
    return distances.max(axis) if far else distances.min(axis)


def _ask_pictures(count: int, which: int):
    draw = torch.Generator().manual_seed(3)
    images, known = (torch.rand(n, 3, 4, 4, generator=draw) for n in (count, 5))
    images[0] = known[2] + 0.01
    return lambda function: function(images.clone(), known.clone())[which]


NEAREST_KNOWN = Exercise(
    nearest_known,
    title="Copies",
    stars=1,
    minutes=8,
    way_in="torch.cdist of the flattened pictures",
    hint="The root of the mean of squares is the Euclidean distance over the root of the number of pixels.",
    cases=(
        ("how far", _ask_pictures(4, 0)),
        ("which one", _ask_pictures(4, 1)),
        ("of as many as there are known ones", _ask_pictures(5, 0)),
    ),
    mistakes=(
        ("The distance is a root of a sum; asked for is that of the mean.", partial(_nearest, mean=False)),
        ("For each known picture the nearest sample: it should be the other way.", partial(_nearest, axis=0)),
        ("That is the farthest.", partial(_nearest, far=True)),
    ),
)
