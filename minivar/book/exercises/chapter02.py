"""Exercises of chapter 02: causal attention, the factors of an image's probability, the nucleus, the loop."""

import math
from functools import partial

import torch
from torch import Tensor

from minivar.book.exercises.exercise import Exercise
from minivar.models import GPT, GPTConfig

# Causal attention -------------------------------------------------------------------------------------------------


def causal_weights(q, k):
    """Queries and keys (..., l, E) -> attention weights (..., l, l): of position i on positions 1 to i alone."""
    length, width = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / width**0.5
    allowed = torch.ones(length, length).tril().bool()
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1)


def _causal(q: Tensor, k: Tensor, diagonal=0, masked=True, zeros=False, scaled=True, late=False, axis=-1) -> Tensor:
    scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5 if scaled else 1)
    allowed = torch.ones(scores.shape[-2:]).tril(diagonal).bool()
    if not masked:
        return scores.softmax(-1)
    if late:
        return scores.softmax(-1) * allowed
    return scores.masked_fill(~allowed, 0.0 if zeros else -math.inf).softmax(axis)


def _turned_mask(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.masked_fill(~torch.ones(scores.shape[-2:]).triu().bool(), -math.inf).softmax(-1)


def _ask_heads(*shape: int):
    q, k = torch.randn(2, *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    return lambda function: function(q.clone(), k.clone())


CAUSAL = Exercise(
    causal_weights,
    title="The causal mask",
    stars=1,
    minutes=10,
    way_in="scores, mask, softmax",
    hint="`torch.ones(l, l).tril().bool()` is true where looking is allowed. `masked_fill` puts minus infinity where "
    "it is not, *before* the softmax: the exponential of that is an exact zero, and the rest of a row still sums to "
    "one.",
    cases=(
        ("one position, which can look at itself only", _ask_heads(1, 4)),
        ("three positions", _ask_heads(3, 4)),
        ("two images of two heads, five positions each", _ask_heads(2, 2, 5, 8)),
    ),
    mistakes=(
        ("Nothing is masked: every position sees the answers.", partial(_causal, masked=False)),
        (
            "One too many: position i sees position i + 1, which reads what it is to predict.",
            partial(_causal, diagonal=1),
        ),
        ("The mask is turned round: this looks at what comes later.", _turned_mask),
        ("A score of 0 is no ban: its exponential is 1.", partial(_causal, zeros=True)),
        ("Masked after the softmax: the rows do not sum to one any more.", partial(_causal, late=True)),
        (
            "The softmax runs over the queries; each query spreads its weights over the keys.",
            partial(_causal, axis=-2),
        ),
        ("The scores are divided by the square root of the width E.", partial(_causal, scaled=False)),
    ),
)

# The factors ------------------------------------------------------------------------------------------------------


def log_factors(gpt, classes, tokens):
    """A GPT, classes (B,) and tokens (B, N) -> (B, N): ln p(token | class and the tokens before it)."""
    log_p_BNV = gpt(classes, tokens[:, :-1]).log_softmax(-1)
    return log_p_BNV.gather(2, tokens[:, :, None])[..., 0]


def _log_factors(gpt: GPT, classes: Tensor, tokens: Tensor, to_log=True, normalised=True, axis=-1) -> Tensor:
    logits = gpt(classes, tokens[:, :-1])
    p = logits if not normalised else logits.log_softmax(axis) if to_log else logits.softmax(axis)
    return p.gather(2, tokens[:, :, None])[..., 0]


def _unshifted(gpt: GPT, classes: Tensor, tokens: Tensor) -> Tensor:
    log_p = gpt(classes, tokens[:, :-1]).log_softmax(-1)
    return log_p.gather(2, tokens.roll(1, dims=1)[:, :, None])[..., 0]


def _likeliest(gpt: GPT, classes: Tensor, tokens: Tensor) -> Tensor:
    return gpt(classes, tokens[:, :-1]).log_softmax(-1).amax(-1)


def _total(gpt: GPT, classes: Tensor, tokens: Tensor, mean: bool = False) -> Tensor:
    factors = _log_factors(gpt, classes, tokens)
    return factors.mean(1) if mean else factors.sum(1)


def _random_gpt(grid: tuple[int, int], codes: int, seed: int, style: str = "llama", wide: float = 0.3) -> GPT:
    draw = torch.Generator().manual_seed(seed)
    gpt = GPT(GPTConfig(depth=1, width=16, heads=2, grid=grid, codebook_size=codes, num_classes=3, style=style))
    for parameter in gpt.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * wide
    return gpt.eval().requires_grad_(False)


def _ask_gpt(grid: tuple[int, int], batch: int, style: str = "llama", wide: float = 0.3):
    gpt, draw = _random_gpt(grid, 5, batch, style, wide), torch.Generator().manual_seed(batch)
    classes = torch.randint(3, (batch,), generator=draw)
    tokens = torch.randint(5, (batch, grid[0] * grid[1]), generator=draw)
    return lambda function: function(gpt, classes.clone(), tokens.clone())


FACTORS = Exercise(
    log_factors,
    title="The factors of an image",
    stars=2,
    minutes=10,
    way_in="one pass over all tokens but the last",
    hint="`gpt(classes, tokens[:, :-1])` gives the logits of all N positions, the first of which reads the class. "
    "`log_softmax` over the codes makes logarithms of probabilities of them, and `gather` picks those of the true "
    "tokens.",
    cases=(
        ("one image of a single token, which depends on the class alone", _ask_gpt((1, 1), 1)),
        ("an untrained model of equal logits", _ask_gpt((3, 3), 2, wide=0.0)),
        ("four images of 2 x 3 tokens", _ask_gpt((2, 3), 4)),
        ("another architecture", _ask_gpt((3, 2), 3, style="gpt2")),
    ),
    mistakes=(
        ("Off by one: each prediction belongs to the token that comes next.", _unshifted),
        ("These are logits: normalise them first.", partial(_log_factors, normalised=False)),
        ("These are probabilities: their logarithm is asked for.", partial(_log_factors, to_log=False)),
        ("Normalise over the codes, not over the positions.", partial(_log_factors, axis=1)),
        ("This is the likeliest code's; the true token's is asked for.", _likeliest),
        ("One number for each token is asked for, neither their sum nor their mean.", _total),
        ("One number for each token is asked for, neither their sum nor their mean.", partial(_total, mean=True)),
    ),
)

# The nucleus ------------------------------------------------------------------------------------------------------


def nucleus(probabilities, p):
    """Probabilities (B, V) and 0 < p <= 1 -> bool (B, V): the codes that top-p keeps."""
    descending, order = probabilities.sort(dim=-1, descending=True)
    likelier = descending.cumsum(-1) - descending  # what stands in front of each code
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, likelier <= p)


def _nucleus(probabilities: Tensor, p: float, crossing=True, strict=False, ascending=False, placed=True) -> Tensor:
    ordered, order = probabilities.sort(dim=-1, descending=not ascending)
    total = ordered.cumsum(-1) - (ordered if crossing else 0)
    keep = total < p if strict else total <= p
    return torch.zeros_like(keep).scatter(-1, order, keep) if placed else keep


def _above(probabilities: Tensor, p: float) -> Tensor:
    return probabilities > p


def _ask_codes(rows: list[list[float]], p: float):
    probabilities = torch.tensor(rows, dtype=torch.float64)
    return lambda function: function(probabilities.clone(), p)


NUCLEUS = Exercise(
    nucleus,
    title="The nucleus",
    stars=2,
    minutes=15,
    way_in="sort, add up, and put back in place",
    hint="`sort(descending=True)` gives values and their places; `cumsum` minus the value itself is what all "
    "likelier codes hold together. A code is kept while that does not exceed p, and so the code that crosses the "
    "line stays. `scatter` takes the verdicts back to the codes' own places.",
    cases=(
        ("four codes in order, p = 0.6", _ask_codes([[0.5, 0.3, 0.15, 0.05]], 0.6)),
        ("p below the best code: one code always stays", _ask_codes([[0.2, 0.7, 0.1]], 0.1)),
        ("codes out of order", _ask_codes([[0.05, 0.15, 0.5, 0.3]], 0.9)),
        ("a sum that equals p and does not exceed it", _ask_codes([[0.5, 0.25, 0.1875, 0.0625]], 0.75)),
        ("two predictions, one sure and one not", _ask_codes([[0.9, 0.05, 0.04, 0.01], [0.25] * 4], 0.7)),
        ("p = 1 keeps everything", _ask_codes([[0.625, 0.25, 0.125]], 1.0)),
    ),
    mistakes=(
        ("Keep codes until their sum exceeds p: where it equals p, one more.", partial(_nucleus, strict=True)),
        ("The code that crosses the line has to stay.", partial(_nucleus, crossing=False)),
        ("This starts from the unlikeliest code.", partial(_nucleus, ascending=True)),
        ("Right in the order of rank: take the verdicts to the codes' own places.", partial(_nucleus, placed=False)),
        ("This compares single probabilities with p; their running sum is meant.", _above),
    ),
)

# The loop ---------------------------------------------------------------------------------------------------------


def draw_raster(gpt, classes, given, length, generator):
    """Classes (B,) and the first tokens of an image each, (B, n) -> its first ``length`` tokens (B, length)."""
    tokens = given
    with torch.no_grad():
        while tokens.shape[1] < length:
            p_BV = gpt(classes, tokens)[:, -1].softmax(-1)
            new_B1 = torch.multinomial(p_BV, 1, generator=generator)
            tokens = torch.cat([tokens, new_B1], dim=1)
    return tokens


def _draw(gpt, classes, given, length, generator, place=-1, greedy=False, blind=False, fresh=False, front=False):
    tokens = given[:, :0] if fresh else given
    with torch.no_grad():
        while tokens.shape[1] < length:
            logits = gpt(classes, given if blind else tokens)[:, place]
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            new = logits.argmax(-1, keepdim=True) if greedy else new
            tokens = torch.cat([new, tokens] if front else [tokens, new], dim=1)
    return tokens


def _only_new(gpt: GPT, classes: Tensor, given: Tensor, length: int, generator: torch.Generator) -> Tensor:
    return _draw(gpt, classes, given, length, generator)[:, given.shape[1] :]


def _one_class(gpt: GPT, classes: Tensor, given: Tensor, length: int, generator: torch.Generator) -> Tensor:
    return _draw(gpt, torch.full_like(classes, gpt.config.num_classes), given, length, generator)


def _ask_loop(batch: int, given: int, length: int):
    gpt, draw = _random_gpt((3, 3), 7, batch, wide=0.6), torch.Generator().manual_seed(batch)
    classes = torch.randint(3, (batch,), generator=draw)
    first = torch.randint(7, (batch, given), generator=draw)
    return lambda function: function(gpt, classes.clone(), first.clone(), length, torch.Generator().manual_seed(0))


LOOP = Exercise(
    draw_raster,
    title="Token by token",
    stars=2,
    minutes=10,
    way_in="ask for the next token, draw it, append it, and ask again",
    hint="`gpt(classes, tokens)[:, -1]` are the logits of the token that comes next, also where none is there yet. "
    "One `torch.multinomial(p, 1, generator=generator)` draws a token for every image of the batch.",
    remark="Nothing is kept from one step to the next: step $i$ runs all $i$ positions through the model again. "
    "Chapter 07 says how a cache saves that.",
    cases=(
        ("three images whose first four tokens are given", _ask_loop(3, 4, 9)),
        ("one image, from nothing", _ask_loop(1, 0, 9)),
        ("four images, from nothing", _ask_loop(4, 0, 9)),
        ("the first six tokens alone, of which two are given", _ask_loop(2, 2, 6)),
        ("everything is given: nothing is left to draw", _ask_loop(2, 9, 9)),
    ),
    mistakes=(
        ("The likeliest code is taken; draw one.", partial(_draw, greedy=True)),
        ("The first position is asked each time; the newest one says what comes next.", partial(_draw, place=0)),
        (
            "What was drawn is not read again: the model is asked about the given tokens only.",
            partial(_draw, blind=True),
        ),
        ("The given tokens are not used.", partial(_draw, fresh=True)),
        ("New tokens go to the end.", partial(_draw, front=True)),
        ("The given tokens belong to the answer.", _only_new),
        ("The classes are not used.", _one_class),
    ),
)
