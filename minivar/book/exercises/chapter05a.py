"""Exercises of chapter 05a: the loss, the guidance ramp, the plain loop over scales, the parameter count."""

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.book.exercises.exercise import Exercise
from minivar.models import VAR, VARConfig
from minivar.scales import VAR_512, ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer

# The loss ---------------------------------------------------------------------------------------------------------


def next_scale_loss(logits, tokens):
    """Logits (B, L, V) and K token maps (B, h_k w_k) -> cross-entropy in nats, the mean over all B L positions."""
    targets = torch.cat(tokens, dim=1)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _loss(
    logits: Tensor, tokens: list[Tensor], shift=0, total=False, by_scale=False, twice=False, bits=False
) -> Tensor:
    if by_scale:
        parts = logits.split([t.shape[1] for t in tokens], dim=1)
        return torch.stack([_loss(part, [t]) for part, t in zip(parts, tokens, strict=True)]).mean()
    targets = torch.cat(tokens, dim=1)[:, shift:]
    logits = logits[:, : logits.shape[1] - shift]
    logits = logits.softmax(-1) if twice else logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum" if total else "mean")
    return loss / math.log(2) if bits else loss


def _ask_loss(counts: tuple[int, ...], size: int, sharp: float = 1.0):
    draw = torch.Generator().manual_seed(size)
    logits = sharp * torch.randn(3, sum(counts), size, generator=draw, dtype=torch.float64)
    tokens = [torch.randint(size, (3, count), generator=draw) for count in counts]
    return lambda function: float(function(logits.clone(), [t.clone() for t in tokens]))


NEXT_SCALE_LOSS = Exercise(
    next_scale_loss,
    title="The loss",
    stars=1,
    minutes=10,
    way_in="one sequence of targets, and their cross-entropy",
    hint="`F.cross_entropy` takes logits (N, V) and targets (N,): join the scales, then flatten batch and positions.",
    cases=(
        ("logits that are all 0: every code is as likely", _ask_loss((1, 4), 8, sharp=0.0)),
        ("one scale of four tokens", _ask_loss((4,), 5)),
        ("scales of 1, 4 and 9 tokens", _ask_loss((1, 4, 9), 6)),
    ),
    mistakes=(
        ("This is the sum over all positions: take the mean.", partial(_loss, total=True)),
        ("This is in bits: nats have the natural logarithm.", partial(_loss, bits=True)),
        ("The softmax is taken twice: cross_entropy takes logits.", partial(_loss, twice=True)),
        ("The targets are shifted by a token, as in a language model; here the inputs are.", partial(_loss, shift=1)),
        ("Every scale counts the same here; every position should.", partial(_loss, by_scale=True)),
    ),
)

# Guidance ---------------------------------------------------------------------------------------------------------


def guided(with_class, without, k, num_scales, cfg):
    """Logits with the class and without it (B, l, V), scale k = 0, ..., num_scales - 1 -> guided logits."""
    t = cfg * k / max(num_scales - 1, 1)
    return (1 + t) * with_class - t * without


def _guided(
    with_class, without, k: int, num_scales: int, cfg: float, ahead=0, steps=1, constant=False, s=False
) -> Tensor:
    t = cfg * (k + ahead) / max(num_scales - steps, 1)
    t = cfg if constant else t
    return without + t * (with_class - without) if s else with_class + t * (with_class - without)


def _ask_guided(k: int, num_scales: int, cfg: float):
    with_class, without = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(k))
    return lambda function: function(with_class.clone(), without.clone(), k, num_scales, cfg)


GUIDED = Exercise(
    guided,
    title="The guidance ramp",
    stars=1,
    minutes=10,
    way_in="a strength that grows with k, and a line through two points",
    hint="With k counted from 0 the strength is `cfg * k / (num_scales - 1)`. What is it for the first scale, "
    "whichever schedule it belongs to?",
    remark="`sampling.guide` takes both halves in one batch, and the strength.",
    cases=(
        ("the last of 10 scales: full strength", _ask_guided(9, 10, 1.5)),
        ("the first of 10 scales: no guidance yet", _ask_guided(0, 10, 4.0)),
        ("the third of 5 scales", _ask_guided(2, 5, 3.0)),
        ("cfg = 0 on the last scale", _ask_guided(3, 4, 0.0)),
        ("a schedule of one scale", _ask_guided(0, 1, 2.0)),
    ),
    mistakes=(
        ("The class alone comes back: nothing is guided.", lambda c, u, k, K, cfg: c),
        ("The first scale is guided as strongly as the last: where is the ramp?", partial(_guided, constant=True)),
        ("The last scale does not get all of cfg: where does the ramp end?", partial(_guided, steps=0)),
        ("The ramp is one scale ahead: the first scale has no guidance.", partial(_guided, ahead=1, steps=0)),
        ("Class and null class have changed places.", lambda c, u, k, K, cfg: _guided(u, c, k, K, cfg)),
        ("This takes t for LlamaGen's s, which is 1 + t.", partial(_guided, s=True)),
    ),
)

# The loop ---------------------------------------------------------------------------------------------------------


def draw_plainly(model, quantizer, labels, cfg, generator):
    """Labels (B,) -> tokens of all scales, (B, L), coarse to fine; every step runs the whole sequence so far."""
    K, mask = model.schedule.num_scales, model.schedule.block_causal_mask()
    null = torch.full_like(labels, model.config.num_classes)
    cond, cond_blocks = model.condition(torch.cat([labels, null]))
    sequence, f_hat, tokens = model.embed(0, cond), 0, []
    for k in range(K):
        x, length = sequence, sequence.shape[1]
        for block in model.blocks:
            x = block(x, cond_blocks, mask[:length, :length])
        with_class, without = model.logits(x, cond)[:, -model.schedule.counts[k] :].chunk(2)
        t = cfg * k / max(K - 1, 1)
        p = ((1 + t) * with_class - t * without).softmax(-1)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(len(labels), -1)
        f_hat = f_hat + quantizer.contribution(quantizer.lookup(drawn), k)
        tokens.append(drawn)
        if k + 1 < K:
            inputs = quantizer.at_scale(f_hat, k + 1)
            sequence = torch.cat([sequence, model.embed(k + 1, cond, torch.cat([inputs, inputs]))], dim=1)
    return torch.cat(tokens, dim=1)


def _draw(
    model, quantizer, labels, cfg, generator,
    constant=False, swapped=False, alone=False, masked=True, summed=True, best=False, first=False, unguided=False,
) -> Tensor:  # fmt: skip
    """The loop over scales, with switches for what can go wrong."""
    K, mask = model.schedule.num_scales, model.schedule.block_causal_mask()
    halves = [labels, torch.full_like(labels, model.config.num_classes)]
    cond, cond_blocks = model.condition(torch.cat(halves[::-1] if swapped else halves))
    sequence, f_hat, tokens = model.embed(0, cond), 0, []
    for k in range(K):
        x, length, count = sequence, sequence.shape[1], model.schedule.counts[k]
        for block in model.blocks:
            x = block(x, cond_blocks, mask[:length, :length] if masked and not alone else None)
        logits = model.logits(x, cond)
        with_class, without = (logits[:, :count] if first else logits[:, -count:]).chunk(2)
        t = 0 if unguided else cfg if constant else cfg * k / max(K - 1, 1)
        p = ((1 + t) * with_class - t * without).softmax(-1)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(len(labels), -1)
        drawn = p.argmax(-1) if best else drawn
        part = quantizer.contribution(quantizer.lookup(drawn), k)
        f_hat = f_hat + part if summed else part
        tokens.append(drawn)
        if k + 1 < K:
            new = model.embed(k + 1, cond, quantizer.at_scale(f_hat, k + 1).repeat(2, 1, 1))
            sequence = new if alone else torch.cat([sequence, new], dim=1)
    return torch.cat(tokens, dim=1)


def small_pair(schedule: ScaleSchedule) -> tuple[VAR, MultiScaleQuantizer]:
    """A transformer whose weights all matter, and a quantiser, of a size that takes milliseconds."""
    shape = {"num_classes": 5, "codebook_size": 24, "code_dim": 4, "schedule": schedule}
    with torch.random.fork_rng():  # what follows on the page draws as if nothing had been made here
        model, quantizer = VAR(VARConfig(depth=2, width=32, heads=2, **shape)), MultiScaleQuantizer(schedule, 24, 4)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.parameters(), *quantizer.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
        quantizer.codebook.mul_(4)
    return model.eval(), quantizer.eval()


def _ask_tokens(sides: tuple, labels: list[int], cfg: float):
    model, quantizer = small_pair(ScaleSchedule(sides))

    def answer(function):
        with torch.no_grad():
            return function(model, quantizer, torch.tensor(labels), cfg, torch.Generator().manual_seed(3))

    return answer


LABELS = [0, 4, 2, 1, 3, 3]

DRAW_PLAINLY = Exercise(
    draw_plainly,
    title="The loop",
    stars=3,
    minutes=35,
    way_in="embed, run the blocks under the mask, guide, draw, add, average down, and again",
    hint="Keep the embedded sequence so far, and append what `model.embed(k, cond, inputs)` makes of each new scale; "
    "the mask is the top left corner of `model.schedule.block_causal_mask()`. Only the last "
    "`model.schedule.counts[k]` rows of the logits are new. `torch.multinomial` wants a table (rows, V) and "
    "returns (rows, 1).",
    remark="Chapter 07 makes it faster, with a cache, and adds the filters.",
    cases=(
        ("one scale", _ask_tokens((1,), LABELS, 0.0)),
        ("scales 1, 2 and 4, without guidance", _ask_tokens((1, 2, 4), LABELS, 0.0)),
        ("scales 1, 2 and 4, cfg = 3", _ask_tokens((1, 2, 4), LABELS, 3.0)),
        ("grids that are not square, cfg = 2", _ask_tokens(((1, 1), (1, 2), (2, 4)), LABELS[:2], 2.0)),
    ),
    mistakes=(
        ("The likeliest code is taken: draw, so that the same class gives many pictures.", partial(_draw, best=True)),
        ("Class and null class have changed places.", partial(_draw, swapped=True)),
        ("A scale reads the last contribution alone: f_hat is the sum of all.", partial(_draw, summed=False)),
        ("A scale passes the blocks alone: it has to see the coarser ones.", partial(_draw, alone=True)),
        ("The coarser scales look at finer ones: without a cache the mask is needed.", partial(_draw, masked=False)),
        (
            "These are the logits of the first tokens of the sequence; the new ones are the last.",
            partial(_draw, first=True),
        ),
        ("Guidance is as strong at the first scale as at the last.", partial(_draw, constant=True)),
        ("Nothing is guided.", partial(_draw, unguided=True)),
    ),
)

# The parameters ---------------------------------------------------------------------------------------------------


def parameter_count(c):
    """The number of parameters of a VARConfig's transformer, from arithmetic alone."""
    D, hidden = c.width, round(c.width * c.mlp_ratio)
    attention = 4 * D**2 + 3 * D + (c.heads if c.l2_norm_attention else 0)
    mlp = 2 * D * hidden + hidden + D
    projection = 6 * D**2 + 6 * D
    adaln = projection + c.depth * 6 * D if c.shared_adaln else c.depth * projection
    tables = c.schedule.counts[0] + c.schedule.num_scales + c.schedule.num_tokens
    inputs = (c.code_dim + 1) * D + (c.num_classes + 1) * D + tables * D
    head = 2 * D**2 + 2 * D + (D + 1) * c.codebook_size
    return c.depth * (attention + mlp) + adaln + inputs + head


def _count(c, ratio=None, warm=None, shared=None, table=True, null=True, start=None, biases=True, head=True) -> int:
    given = {"mlp_ratio": ratio, "l2_norm_attention": warm, "shared_adaln": shared}
    asked = replace(c, **{name: value for name, value in given.items() if value is not None})
    count = parameter_count(asked)
    count -= 0 if table or not c.shared_adaln else c.depth * 6 * c.width
    count -= 0 if null else c.width
    count -= 0 if start is None else (c.schedule.counts[0] - start) * c.width
    count -= 0 if biases else c.depth * 14 * c.width
    return count - (0 if head else 2 * c.width**2 + 2 * c.width)


def _ask_count(config: VARConfig):
    return lambda function: function(config)


ODD = VARConfig.from_depth(2, num_classes=7, codebook_size=50, code_dim=6, schedule=ScaleSchedule((2, 3, 5)))
PLAIN = replace(ODD, schedule=ScaleSchedule((1, 2, 3)))

PARAMETER_COUNT = Exercise(
    parameter_count,
    title="Counting parameters",
    stars=2,
    minutes=25,
    way_in="the blocks, what stands before them, what stands after them",
    hint="Write a block as three sums: attention ($4D^2$, biases of queries, values and projection, temperatures "
    "only with cosine attention), MLP (hidden width `round(D * mlp_ratio)`, with biases), and AdaLN. Only the third "
    "depends on sharing. The head keeps an AdaLN of its own, of $2D$ outputs.",
    cases=(
        ("two blocks, scales 1, 2 and 3", _ask_count(PLAIN)),
        ("a first scale of 2 x 2", _ask_count(ODD)),
        ("four heads for width 128", _ask_count(replace(ODD, heads=4))),
        ("plain attention, without temperatures", _ask_count(replace(ODD, l2_norm_attention=False))),
        ("an MLP twice as wide as the model", _ask_count(replace(ODD, mlp_ratio=2.0))),
        ("shared AdaLN", _ask_count(replace(ODD, shared_adaln=True))),
        ("the published d16", _ask_count(VARConfig.from_depth(16))),
        ("the published d36-s", _ask_count(VARConfig.from_depth(36, schedule=VAR_512, shared_adaln=True))),
    ),
    mistakes=(
        ("The null class has an embedding too.", partial(_count, null=False)),
        ("The biases of the blocks are missing: 14 D of them in each.", partial(_count, biases=False)),
        ("The head has a layer norm that the class modulates: D to 2 D, with biases.", partial(_count, head=False)),
        ("Every position of the first scale has a start vector.", partial(_count, start=1)),
        ("Temperatures belong to cosine attention: plain attention has none.", partial(_count, warm=True)),
        ("The MLP is not always four times as wide as the model.", partial(_count, ratio=4.0)),
        ("With a shared AdaLN the map from D to 6 D is there once.", partial(_count, shared=False)),
        ("Each block has a table of 6 D that is added to the shared map's output.", partial(_count, table=False)),
    ),
)
