"""Smoothed sampling, which multiplies rounding errors, held to the tolerance that it deserves and no wider one.

At the last scale smoothing divides the logits by 0.0135, and their float32 rounding with them. The published picture
is one rounding of the exact one, ours is another, and which one depends on the processor and the number of threads:
a fixed tolerance passes on one machine and fails on the next. So the parts are tested one by one:

- the soft codes of given logits and given noise, within what float32 rounding of ``logits`` and ``noise`` allows;
- the tokens, exactly;
- the whole picture, and the published one, against an evaluation in float64. How far rounding may move the picture
  is measured: every weight is moved by a random part of its float32 rounding, in float64, where nothing else rounds.

A wrong formula moves codes and pictures by far more than that, which the tests of wrong formulas show.
"""

import copy
import math

import pytest
import torch
from parity_cases import CASES, Case
from torch import Tensor

from minivar.sampling import next_scale

ROUNDING = 2.0**-24  # half the distance from 1 to the next float32: the largest relative error of one rounding
PERTURBATIONS = 4
GREY_LEVEL = 1 / 255  # the smallest step of an 8-bit picture


# The definition, in float64 ---------------------------------------------------------------------------------------


def gain(ratio: float) -> float:
    return 1 + ratio


def temperature(ratio: float) -> float:
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


def float32_exponentials(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """The draws whose negative logarithm is the noise of ``gumbel_codes``, as float64."""
    return torch.empty(shape, dtype=torch.float32).exponential_(generator=generator).to(torch.float64)


def exact_weights(logits: Tensor, exponentials: Tensor, ratio: float, gain=gain, temperature=temperature, sign=-1.0):
    """What Gumbel-softmax gives each code, (B, l, V) float64: softmax((gain l - log e) / temperature)."""
    scores = (logits.to(torch.float64) * gain(ratio) + sign * exponentials.log()) / temperature(ratio)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


# Formulas that one could take for the right one by mistake.
WRONG = {
    "temperature that does not fall": {"temperature": lambda ratio: 0.27},
    "temperature that falls less": {"temperature": lambda ratio: 0.27 * (1 - 0.9 * ratio)},
    "temperature from 0.3": {"temperature": lambda ratio: 0.3 * (1 - 0.95 * ratio)},
    "logits without gain": {"gain": lambda ratio: 1.0},
    "no noise": {"sign": 0.0},
    "noise of the other sign": {"sign": 1.0},
    "ratio k / K for K = 4": {
        "gain": lambda ratio: gain(ratio * 3 / 4),
        "temperature": lambda ratio: temperature(ratio * 3 / 4),
    },
}


# (a) Soft codes ---------------------------------------------------------------------------------------------------


def soft_codes_tolerance(logits: Tensor, exponentials: Tensor, codebook: Tensor, ratio: float) -> Tensor:
    """By how much float32 may miss the exact soft codes, (B, l, C): a bound, not a guess.

    A score is a product, a logarithm, a sum and a quotient of rounded numbers: at most 8 roundings of its largest
    term. Softmax and mixture add one for each of V terms and a few more. Where no score is off by more than d, no
    weight is off by more than a factor exp(2 d), since numerator and denominator can both err.
    """
    terms = logits.to(torch.float64).abs() * gain(ratio) + exponentials.log().abs()
    largest = terms.masked_fill(logits.isinf(), 0).amax(-1, keepdim=True) / temperature(ratio)
    error = 8 * ROUNDING * largest + (logits.shape[-1] + 8) * ROUNDING
    weights = exact_weights(logits, exponentials, ratio)
    return (2 * error).expm1() * (weights @ codebook.to(torch.float64).abs())


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, 100, 64), a quarter of them filtered out, exponentials of that shape, and a codebook (64, 8)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 100, 64, generator=generator) * 3
    logits = logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.25, -torch.inf)
    codebook = torch.randn(64, 8, generator=generator)
    return logits, float32_exponentials(logits.shape, torch.Generator().manual_seed(1)), codebook


@pytest.mark.parametrize("ratio", [0.0, 1 / 3, 0.5, 1.0])
def test_soft_codes_are_exact_up_to_rounding(given, ratio):
    logits, exponentials, codebook = given
    got = next_scale.gumbel_codes(logits, codebook, ratio, torch.Generator().manual_seed(1))
    assert got.dtype == torch.float32
    exact = exact_weights(logits, exponentials, ratio) @ codebook.to(torch.float64)
    assert ((got - exact).abs() / soft_codes_tolerance(logits, exponentials, codebook, ratio)).max() <= 1


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_formula_gives_other_soft_codes(given, wrong):
    logits, exponentials, codebook = given
    ratio = 1.0  # the last scale, where rounding is allowed most
    got, exact = (
        exact_weights(logits, exponentials, ratio, **formula) @ codebook.to(torch.float64)
        for formula in (WRONG[wrong], {})
    )
    assert ((got - exact).abs() / soft_codes_tolerance(logits, exponentials, codebook, ratio)).max() > 10


# (b) Tokens and (c) pictures --------------------------------------------------------------------------------------


def perturbed(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy of a float64 module whose parameters are moved by up to one float32 rounding each."""
    module, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            step = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
            parameter.mul_(1 + ROUNDING * step)
    return module


class Exact:
    """A parity case in float64: the smoothed sample, and how far rounding may move its picture."""

    def __init__(self, name: str) -> None:
        self.case = Case(name)
        self.models = [copy.deepcopy(module).double() for module in (self.case.model, self.case.tokenizer)]
        self.images, self.tokens = self.sample()
        self.moved = [
            (self.sample([perturbed(module, seed) for module in self.models]).images - self.images).abs().max().item()
            for seed in range(PERTURBATIONS)
        ]
        # Moving a weight is one rounding; a sum of n products rounds n times, and these errors, of random sign, add
        # up to about sqrt(n) of one. The longest sums of the transformer are those of the MLP's second layer.
        longest_sum = 4 * self.case.config["width"]
        self.tolerance = math.sqrt(longest_sum) * max(self.moved)

    def sample(self, models=None, formula=None) -> next_scale.Sample:
        """``sample`` in float64, with float32's random draws and this file's definition of soft codes."""

        def exact_codes(logits, codebook, ratio, generator):
            return (
                exact_weights(logits, float32_exponentials(logits.shape, generator), ratio, **formula or {})
                @ codebook
            )

        def float32_draw(logits, generator, draw_tokens=next_scale.draw_tokens):
            return draw_tokens(logits.to(torch.float32), generator)

        case, (model, tokenizer) = self.case, models or self.models
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(next_scale, "gumbel_codes", exact_codes)
            patch.setattr(next_scale, "draw_tokens", float32_draw)
            patch.setattr(Tensor, "float", Tensor.double)  # "at least float32" in the model's code
            generator = torch.Generator().manual_seed(case.seed)
            return next_scale.sample(model, tokenizer, case.labels, **case.options, smooth=True, generator=generator)


@pytest.fixture(scope="module", params=CASES)
def exact(request) -> Exact:
    return Exact(request.param)


def test_smoothed_sampling_is_exact_up_to_rounding(exact):
    case, generator = exact.case, torch.Generator().manual_seed(exact.case.seed)
    got = next_scale.sample(case.model, case.tokenizer, case.labels, **case.options, smooth=True, generator=generator)
    assert got.images.dtype == torch.float32
    assert torch.equal(got.tokens, case.results["smooth_tokens"])
    assert (got.images - exact.images).abs().max() <= exact.tolerance


def test_the_published_picture_is_exact_up_to_rounding(exact):
    assert exact.images.dtype == torch.float64
    assert torch.equal(exact.tokens, exact.case.results["smooth_tokens"])
    assert (exact.case.results["smooth_image"] - exact.images).abs().max() <= exact.tolerance


def test_rounding_cannot_be_seen_in_a_picture(exact):
    assert len(set(exact.moved)) == PERTURBATIONS  # each perturbation moves the picture, and differently
    assert exact.tolerance <= GREY_LEVEL


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_formula_gives_another_picture(exact, wrong):
    images = exact.sample(formula=WRONG[wrong]).images
    assert (images - exact.case.results["smooth_image"]).abs().max() > 10 * exact.tolerance
