"""Exercises of chapter 14: what published files say by their shapes, their names, q, k and v, and parity."""

from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise

# What shapes say --------------------------------------------------------------------------------------------------


def read_sizes(state):
    """(depth, width, heads, classes) of a published VAR transformer: names to tensors."""
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    width = state["word_embed.weight"].shape[0]
    scale = state.get("blocks.0.attn.scale_mul_1H11")
    heads = width // 64 if scale is None else scale.shape[1]
    return depth, width, heads, state["class_emb.weight"].shape[0] - 1


def _sizes(state, last=False, largest=False, tripled=False, nobody=False, assumed=False) -> tuple[int, ...]:
    numbers = [key.split(".")[1] for key in state if key.startswith("blocks.")]
    depth = int(max(numbers)) + 1 if last else max(map(int, numbers)) if largest else len(set(numbers))
    width = state["word_embed.weight"].shape[0]
    scale = None if assumed else state.get("blocks.0.attn.scale_mul_1H11")
    heads = width // 64 if scale is None else scale.shape[1]
    width = state["blocks.0.attn.mat_qkv.weight"].shape[0] if tripled else width
    return depth, width, heads, state["class_emb.weight"].shape[0] - (not nobody)


def _published(depth: int, width: int, classes: int, heads: int | None) -> dict[str, Tensor]:
    """A transformer's entries, as far as sizes are read from them; shapes without numbers."""
    shapes = {"pos_1LC": (1, 680, width), "word_embed.weight": (width, 32), "class_emb.weight": (classes + 1, width)}
    for i in range(depth):
        shapes[f"blocks.{i}.attn.mat_qkv.weight"] = (3 * width, width)
        shapes[f"blocks.{i}.ffn.fc1.weight"] = (4 * width, width)
        if heads is not None:
            shapes[f"blocks.{i}.attn.scale_mul_1H11"] = (1, heads, 1, 1)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _ask_sizes(*given):
    return lambda function: tuple(int(size) for size in function(_published(*given)))


READ_SIZES = Exercise(
    read_sizes,
    title="What the shapes say",
    stars=2,
    minutes=12,
    way_in="count blocks, and look at shapes",
    hint="The depth is how many different numbers stand behind `blocks.`; `key.split('.')[1]` is one, a string.",
    remark="`from_var` takes the size that most of several entries have, so that a single damaged one is named in "
    "the error, and not believed.",
    cases=(
        ("d16", _ask_sizes(16, 1024, 1000, 16)),
        ("two blocks of ten classes, with heads of 32 numbers", _ask_sizes(2, 128, 10, 4)),
        ("one block without a temperature", _ask_sizes(1, 192, 5, None)),
    ),
    mistakes=(
        ("As strings, block 9 comes after block 10.", partial(_sizes, last=True)),
        ("The first block has the number 0.", partial(_sizes, largest=True)),
        ("The rows of mat_qkv are three times something.", partial(_sizes, tripled=True)),
        ("One row of the class embedding is nobody's: the null class of guidance.", partial(_sizes, nobody=True)),
        (
            "A head has 64 numbers in the published models; a file with a temperature a head says it itself.",
            partial(_sizes, assumed=True),
        ),
    ),
)


def sides_of(level):
    """Sides of the scales, from ``lvl_1L`` (1, L): for every token the number of its scale, from 0."""
    counts = torch.bincount(level.flatten())
    return counts.float().sqrt().round().long().tolist()


def _sides(level, counts=False, ends=False, late=False) -> list[int]:
    found = torch.bincount(level.flatten())
    found = found.cumsum(0) if ends else found
    return (found if counts else found.float().sqrt().round().long())[late:].tolist()


def _ask_sides(*sides: int):
    level = torch.tensor([[k for k, side in enumerate(sides) for _ in range(side * side)]])
    return lambda function: [float(side) for side in function(level.clone())]


SIDES_OF = Exercise(
    sides_of,
    title="A buffer tells the schedule",
    stars=1,
    minutes=6,
    way_in="how many tokens has each scale?",
    hint="`torch.bincount` of the flat tensor counts how often each number is there.",
    cases=(
        ("1, 2, 3, 4", _ask_sides(1, 2, 3, 4)),
        ("256 pixels", _ask_sides(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)),
    ),
    mistakes=(
        ("Those are numbers of tokens, and a grid has as many as its side squared.", partial(_sides, counts=True)),
        ("Each scale is counted by itself, without those before it.", partial(_sides, ends=True)),
        ("The scale of a single token is one of them.", partial(_sides, late=True)),
    ),
)

# Names ------------------------------------------------------------------------------------------------------------


def own_name(theirs):
    """minivar's name of an entry of VAR's transformer; None for a constant of the architecture."""
    if theirs.split(".")[-1] in ("lvl_1L", "attn_bias_for_masking", "zero_k_bias"):
        return None
    for old, new in (
        ("pos_start", "start_1lD"),
        ("pos_1LC", "position_1LD"),
        ("class_emb.", "class_embed."),
        ("lvl_embed.", "level_embed."),
        ("head_nm.ada_lin.1.", "head_ada."),
        ("ada_lin.1.", "ada."),  # of a block, and shared
        ("ada_gss", "ada_table_116D"),
        ("scale_mul_1H11", "log_scale_1H11"),
        ("mat_qkv.", "qkv."),
        ("ffn.", "mlp."),
    ):
        theirs = theirs.replace(old, new)
    return theirs


PAIRS = (
    ("head_nm.ada_lin.1.", "head_ada."),
    ("ada_lin.1.", "ada."),
    ("pos_start", "start_1lD"),
    ("pos_1LC", "position_1LD"),
    ("class_emb.", "class_embed."),
    ("lvl_embed.", "level_embed."),
    ("ada_gss", "ada_table_116D"),
    ("scale_mul_1H11", "log_scale_1H11"),
    ("mat_qkv.", "qkv."),
    ("ffn.", "mlp."),
)


def _name(theirs, constants=False, head_last=False, sequence=False, everywhere=False) -> str | None:
    if not constants and theirs.split(".")[-1] in ("lvl_1L", "attn_bias_for_masking", "zero_k_bias"):
        return None
    pairs = [*PAIRS[1:], PAIRS[0]] if head_last else PAIRS
    for old, new in pairs:
        if sequence and old.endswith("lin.1."):
            old = old.replace("lin.1.", "lin.")
        theirs = theirs.replace(old, new)
    return theirs.replace("emb", "embed") if everywhere else theirs


def _ask_names(*names: str):
    return lambda function: [function(name) for name in names]


OWN_NAME = Exercise(
    own_name,
    title="One name for another",
    stars=2,
    minutes=15,
    way_in="replace one part of the name after the other",
    hint="The order of the replacements matters where one pattern is a part of another.",
    remark="The package holds the same list the other way round (`VAR_NAMES` in `minivar/checkpoints/var.py`), so "
    "that its errors name the published entries.",
    cases=(
        (
            "what stays",
            _ask_names("word_embed.weight", "blocks.3.attn.q_bias", "blocks.3.attn.proj.bias", "head.bias"),
        ),
        (
            "a block",
            _ask_names("blocks.11.attn.mat_qkv.weight", "blocks.0.ffn.fc2.bias", "blocks.7.ada_lin.1.weight"),
        ),
        ("its temperature and its table", _ask_names("blocks.1.attn.scale_mul_1H11", "blocks.1.ada_gss")),
        ("tables", _ask_names("pos_start", "pos_1LC", "class_emb.weight", "lvl_embed.weight")),
        ("the two other AdaLN", _ask_names("head_nm.ada_lin.1.bias", "shared_ada_lin.1.weight")),
        ("constants", _ask_names("lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias")),
    ),
    mistakes=(
        (
            "What the architecture determines is not learned, and has no place in the model.",
            partial(_name, constants=True),
        ),
        (
            "The head's AdaLN is found too late: another replacement has changed its name by then.",
            partial(_name, head_last=True),
        ),
        (
            "The 1 is a place in their Sequential(SiLU, Linear); here there is no sequence.",
            partial(_name, sequence=True),
        ),
        ("A part of a name is also a part of other names.", partial(_name, everywhere=True)),
    ),
)

# Queries, keys, values --------------------------------------------------------------------------------------------


def split_qkv(weight, q_bias, v_bias):
    """Fused (3 D, D) with biases (D,) of q and v -> three (weight (D, D), bias (D,)), of q, k and v."""
    q, k, v = weight.chunk(3)
    return (q, q_bias), (k, torch.zeros_like(q_bias)), (v, v_bias)


def _split(weight, q_bias, v_bias, turned=False, heads=False, order=(0, 1, 2), biased=False):
    parts = weight.T.chunk(3, dim=1) if turned else weight.chunk(3)
    if heads:  # as files do that store q, k and v of one head side by side
        parts = weight.unflatten(0, (2, 3, -1)).transpose(0, 1).flatten(1, 2)
    biases = (q_bias, q_bias if biased else torch.zeros_like(q_bias), v_bias)
    return tuple((parts[place], bias) for place, bias in zip(order, biases, strict=True))


def _ask_parts(width: int, what: int):
    """``what``: 0 for the weights, 1 for the biases."""
    draw = torch.Generator().manual_seed(width)
    weight, q_bias, v_bias = (torch.randn(shape, generator=draw) for shape in ((3 * width, width), width, width))
    return lambda function: torch.stack([part[what] for part in function(weight.clone(), q_bias, v_bias)])


SPLIT_QKV = Exercise(
    split_qkv,
    title="Three layers out of one",
    stars=1,
    minutes=8,
    way_in="rows of the matrix, in the order q, k, v",
    cases=(
        ("weights of width 4", _ask_parts(4, 0)),
        ("biases of width 4", _ask_parts(4, 1)),
        ("weights of width 6", _ask_parts(6, 0)),
    ),
    mistakes=(
        ("The outputs of a layer are the rows of its matrix: nothing is to be turned.", partial(_split, turned=True)),
        ("q, k and v do not alternate head by head: first come all queries.", partial(_split, heads=True)),
        ("Two of the three have changed places.", partial(_split, order=(0, 2, 1))),
        ("The queries' bias is not the keys' too.", partial(_split, biased=True)),
    ),
)

# Parity -----------------------------------------------------------------------------------------------------------


def same_numbers(got, expected, bound):
    """Whether two tensors are one result: of one shape, and nowhere further apart than the bound."""
    if got.shape != expected.shape:
        return False
    return bool((got - expected).abs().max() <= bound)


def _same(got, expected, bound, mean=False, signed=False, blind=False, broadcast=False) -> bool:
    if got.shape != expected.shape and not broadcast:
        return False
    apart = got - expected
    apart = apart if signed else apart.abs()
    if blind:
        return not bool((apart > bound).any())
    return bool((apart.mean() if mean else apart.max()) <= bound)


def _ask_same(place: tuple[int, ...] = (), by: float = 0.0, rows: int | None = None):
    expected = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    got = expected.clone()
    if place:
        got[place] += by
    return lambda function: bool(function(got[:rows], expected[:1].expand(2, -1, -1) if rows else expected, 1e-4))


SAME_NUMBERS = Exercise(
    same_numbers,
    title="An agreement that can fail",
    stars=1,
    minutes=8,
    way_in="the largest difference, of tensors of one shape",
    hint="A comparison with NaN is never true: make that work for you.",
    remark="`max` passes a NaN on, and `nan <= bound` is false. The other way round, `not (x > bound).any()`, a "
    "result full of NaN would agree with everything.",
    cases=(
        ("the same", _ask_same()),
        ("rounding", _ask_same((0, 1, 7), 3e-6)),
        ("one number of 300 off", _ask_same((1, 2, 49), 2e-3)),
        ("one number too small", _ask_same((1, 0, 3), -1.0)),
        ("one that is not a number", _ask_same((0, 0, 0), float("nan"))),
        ("half of a batch", _ask_same(rows=1)),
    ),
    mistakes=(
        ("In a mean, a single wrong number is lost among the right ones.", partial(_same, mean=True)),
        ("A number can be too small as well as too large.", partial(_same, signed=True)),
        ("A number that is none passes: no comparison with it is true.", partial(_same, blind=True)),
        ("PyTorch repeats a missing row to make the shapes fit.", partial(_same, broadcast=True)),
    ),
)
