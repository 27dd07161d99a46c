"""DiT gives the published code's numbers, and its noise schedule obeys the identities it is made of."""

import json
import math
from pathlib import Path

import numpy as np
import parity_weights
import pytest
import torch

from minivar import checkpoints, sampling
from minivar.checkpoints import CheckpointError
from minivar.models.dit import DiT, DiTConfig, sine_table
from minivar.models.noise import STEPS, NoiseSchedule, bin_log_likelihood, diffusion_loss, gaussian_divergence
from minivar.sampling.diffusion import guided_output

DATA = Path(__file__).parent / "data"
PUBLISHED = {"S/2": 32_865_056, "B/2": 130_315_808, "L/2": 457_840_672, "XL/2": 674_834_720}
SMALL = {"depth": 2, "width": 16, "heads": 2, "num_classes": 3, "channels": 2, "input_size": 4}


@pytest.fixture(scope="module")
def case():
    return json.loads((DATA / "dit_latent.json").read_text())


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "dit_latent.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def state(case, expected):
    drawn = {key: parity_weights.draw(key, shape, case["seed"]) for key, shape in case["dit_keys"].items()}
    return {key: torch.from_numpy(value) for key, value in drawn.items()} | {"pos_embed": expected["pos_embed"]}


@pytest.fixture(scope="module")
def dit(state, case):
    return checkpoints.from_dit(state, heads=case["heads"])


def small(seed: int = 0, **changes) -> DiT:
    """A DiT whose gates are open: freshly initialised, it answers zero."""
    torch.manual_seed(seed)
    model = DiT(DiTConfig(**{**SMALL, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


# The published numbers ----------------------------------------------------------------------------------------------


def test_a_forward_pass_is_the_published_one(dit, expected):
    output = dit(expected["x"], expected["t"], expected["labels"])
    assert relative(output, expected["output"]) < 1e-4
    assert torch.allclose(dit.position_1lD, expected["pos_embed"], atol=1e-6)


def test_losses_are_the_published_ones(dit, expected):
    x, noise, t, labels = (expected[key] for key in ("x", "noise", "t", "labels"))
    schedule = NoiseSchedule()
    x_t = schedule.mix(x, noise, t)
    assert relative(x_t, expected["x_t"]) < 1e-5
    error, variational = diffusion_loss(dit(x_t, t, labels), x, x_t, noise, t, schedule)
    assert relative(error, expected["train_mse"]) < 1e-4
    assert relative(variational, expected["train_vb"]) < 1e-4
    assert relative(error + variational, expected["train_loss"]) < 1e-4


def test_guidance_moves_the_first_three_channels_as_published(dit, case, expected):
    noise, t, labels = (expected[key] for key in ("noise", "t", "labels"))
    output = guided_output(dit, noise, t, labels, case["sampling"]["cfg"])
    assert relative(output, expected["output_cfg"][: len(labels)]) < 1e-4
    assert torch.allclose(output[:, 3:], dit(noise, t, labels)[:, 3:], atol=1e-5)


@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_samples_are_the_published_ones(dit, case, expected, method):
    options = case["sampling"]
    assert NoiseSchedule(options["steps"]).timesteps.tolist() == expected["timesteps"].tolist()
    torch.manual_seed(options["manual_seed"])
    settings = {"steps": options["steps"], "cfg": options["cfg"], "method": method}
    found = sampling.sample_diffusion(dit, expected["labels"], expected["noise"], **settings)
    assert relative(found, expected[method]) < 1e-3


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        model = DiT(DiTConfig.from_name(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_checkpoints_that_do_not_fit_are_named(state):
    with pytest.raises(CheckpointError, match=r"Width 64 is not a published one \(384, 768, 1024, 1152\)"):
        checkpoints.from_dit(state)
    with pytest.raises(CheckpointError, match="missing: t_embedder.mlp.0.bias"):
        checkpoints.from_dit({key: value for key, value in state.items() if key != "t_embedder.mlp.0.bias"}, heads=4)
    with pytest.raises(CheckpointError, match="unexpected: blocks.0.more"):
        checkpoints.from_dit({**state, "blocks.0.more": torch.zeros(1)}, heads=4)
    wrapped = {"ema": state, "model": {}, "opt": {}}
    assert checkpoints.from_dit(wrapped, heads=4).config.input_size == 8


# The mathematics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 10, 250, STEPS])
def test_a_subset_of_the_steps_mixes_as_all_of_them(steps):
    """What is kept at a kept step does not depend on how many others there are, and steps multiply up to it."""
    schedule, everything = NoiseSchedule(steps), NoiseSchedule()
    assert schedule.timesteps[0] == 0 and schedule.timesteps[-1] == STEPS - 1
    assert torch.equal(schedule.kept, everything.kept[schedule.timesteps])
    assert torch.allclose((1 - schedule.betas).cumprod(0), schedule.kept)
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()


def test_all_noise_at_the_end_and_none_at_the_beginning():
    schedule = NoiseSchedule()
    assert schedule.kept[-1] < 5e-5 and schedule.kept[0] > 0.9998


def test_mixing_is_undone_by_the_noise():
    x, noise = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([0, 500, 900])
    schedule = NoiseSchedule()
    assert torch.allclose(schedule.picture(schedule.mix(x, noise, t), noise, t), x)


def test_the_step_back_keeps_the_distribution():
    """Mix to t, then step back with the true picture: mean and variance must be those of mixing to t - 1 at once."""
    for schedule in (NoiseSchedule(), NoiseSchedule(20)):
        mean = schedule.on_picture + schedule.on_noisy * schedule.kept.sqrt()
        assert torch.allclose(mean, schedule.kept_before.sqrt())
        variance = schedule.on_noisy**2 * (1 - schedule.kept)
        variance[1:] += schedule.log_smallest[1:].exp()
        assert torch.allclose(variance, 1 - schedule.kept_before, atol=1e-12)


def test_the_variance_lies_between_its_bounds():
    schedule = NoiseSchedule(50)
    t = torch.arange(50)
    low, high = (schedule.log_variance(torch.full((50, 1, 1, 1), v).double(), t).flatten() for v in (-1.0, 1.0))
    assert torch.allclose(low, schedule.log_smallest) and torch.allclose(high, schedule.log_largest)
    assert (low[1:] < high[1:]).all()


def test_divergence_and_likelihood_are_what_an_independent_computation_says():
    draw = torch.Generator().manual_seed(0)
    mean_a, log_a, mean_b, log_b = torch.randn(4, 50, generator=draw).double()
    normal = torch.distributions.Normal
    a, b = normal(mean_a, (log_a / 2).exp()), normal(mean_b, (log_b / 2).exp())
    wanted = torch.distributions.kl_divergence(a, b)
    assert torch.allclose(gaussian_divergence(mean_a, log_a, mean_b, log_b), wanted)
    pixels = torch.linspace(-1, 1, 256).double()  # every bin once: together they hold all of the mass
    mean, log_deviation = torch.full_like(pixels, 0.1), torch.full_like(pixels, math.log(0.3))
    found = bin_log_likelihood(pixels, mean, log_deviation).exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    exact = normal(0.1, 0.3).cdf(pixels + 1 / 255) - normal(0.1, 0.3).cdf(pixels - 1 / 255)
    assert torch.allclose(found[1:-1], exact[1:-1], atol=2e-5)


class KnowsThePicture(DiT):
    """Answers with the noise that one picture leaves of what it is shown."""

    def __init__(self, picture: torch.Tensor) -> None:
        super().__init__(DiTConfig(**SMALL))
        self.picture = picture

    def forward(self, x, t, labels):
        kept = NoiseSchedule().at(NoiseSchedule().kept, t, x)
        noise = (x - kept.sqrt() * self.picture) / (1 - kept).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)


@pytest.mark.parametrize("method", ["ddim", "ancestral"])
@pytest.mark.parametrize("steps", [1, 7])
def test_who_knows_the_noise_draws_the_picture(method, steps):
    picture = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2])
    drawn = sampling.sample_diffusion(KnowsThePicture(picture), labels, noise, steps, 1.0, method)
    assert torch.allclose(drawn, picture.expand(3, -1, -1, -1), atol=1e-3)


class KnowsTheDistribution(DiT):
    """Answers with the expected noise where pictures are Gaussian numbers of deviation 0.5."""

    def forward(self, x, t, labels):
        kept = NoiseSchedule().at(NoiseSchedule().kept, t, x)
        noise = (1 - kept).sqrt() * x / (0.25 * kept + 1 - kept)
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)


def test_a_noise_free_round_trip_comes_back():
    """DDIM is an equation that can be followed in both directions: up to noise, then down again."""
    dit, labels = KnowsTheDistribution(DiTConfig(**SMALL)), torch.tensor([1])
    picture = 0.5 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def error(steps):
        schedule, x = NoiseSchedule(steps), picture
        for step in range(steps):
            after, before = (values[step].float() for values in (schedule.kept, schedule.kept_before))
            epsilon = dit(x, schedule.timesteps[step][None], labels).chunk(2, dim=1)[0]
            x0 = (x - (1 - before).sqrt() * epsilon) / before.sqrt()
            x = after.sqrt() * x0 + (1 - after).sqrt() * epsilon
        # at the top the numbers have deviation 1
        assert x.std().item() == pytest.approx(2 * picture.std().item(), rel=0.1)
        return relative(sampling.sample_diffusion(dit, labels, x, steps, 1.0, "ddim"), picture)

    errors = [error(steps) for steps in (20, 100, 500)]
    assert errors[2] < errors[1] / 3 < errors[0] / 9 and errors[2] < 0.02


# The network and its sampler ----------------------------------------------------------------------------------------


def test_a_fresh_network_answers_zero_whatever_it_is_asked():
    torch.manual_seed(0)
    model = DiT(DiTConfig(**SMALL)).eval()
    assert model(torch.randn(2, 2, 4, 4), torch.tensor([1, 999]), torch.tensor([0, 3])).abs().max() == 0


def test_positions_tell_rows_from_columns():
    table = sine_table(3, 8).unflatten(0, (3, 3))
    assert torch.equal(table[0, :, :4], table[2, :, :4])  # the first half knows the column only
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    assert len(table.flatten(0, 1).unique(dim=0)) == 9


def test_patches_come_back_where_they_were():
    """A change of one pixel changes, in a network without attention, the patch that it lies in."""
    dit = small(patch=2)
    for block in dit.blocks:
        block.attn.proj.weight.data.zero_()
    x, t, labels = torch.zeros(1, 2, 4, 4), torch.tensor([5]), torch.tensor([0])
    other = x.clone()
    other[0, 0, 1, 2] = 1
    changed = (dit(x, t, labels) - dit(other, t, labels)).abs().amax((0, 1)) > 1e-6
    wanted = torch.zeros(4, 4, dtype=bool)
    wanted[:2, 2:] = True
    assert torch.equal(changed, wanted)


def test_timestep_and_class_matter():
    dit, x = small(), torch.ones(1, 2, 4, 4)
    outputs = [dit(x, torch.tensor([t]), torch.tensor([c])) for t, c in ((5, 0), (6, 0), (5, 1))]
    assert all((outputs[0] - other).abs().max() > 1e-4 for other in outputs[1:])


def test_labels_are_dropped_in_training_only():
    dit, labels = small(label_dropout=1.0), torch.tensor([0, 1])
    x, t, null = torch.randn(2, 2, 4, 4), torch.tensor([1, 2]), torch.tensor([3, 3])
    with_class, without = dit(x, t, labels), dit(x, t, null)
    assert (with_class - without).abs().max() > 1e-4
    assert torch.equal(dit.train()(x, t, labels), without)


def test_without_guidance_the_null_half_is_left_out():
    dit, seen = small(), []
    dit.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    noise, labels = torch.randn(2, 2, 4, 4), torch.tensor([0, 1])
    plain = sampling.sample_diffusion(dit, labels, noise, 3, 1.0, "ddim")
    guided = sampling.sample_diffusion(dit, labels, noise, 3, 2.0, "ddim")
    assert seen == [2] * 3 + [4] * 3
    assert (plain - guided).abs().max() > 1e-3


def test_guidance_moves_all_channels_of_models_that_do_not_say_otherwise():
    dit, x, t, labels = small(), torch.randn(2, 2, 4, 4), torch.tensor([5, 900]), torch.tensor([0, 1])
    with_class, without = dit(x, t, labels), dit(x, t, torch.full_like(labels, 3))
    found = guided_output(dit, x, t, labels, 3.0)
    assert torch.allclose(found[:, :2], without[:, :2] + 3 * (with_class - without)[:, :2], atol=1e-5)
    assert torch.allclose(found[:, 2:], with_class[:, 2:], atol=1e-5)


def test_the_variational_term_is_a_likelihood_at_the_last_step_and_trains_the_variance_only():
    schedule, t = NoiseSchedule(), torch.tensor([0, 1])
    x0, noise = torch.rand(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    output = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    x_t = schedule.mix(x0, noise, t)
    _, variational = diffusion_loss(output, x0, x_t, noise, t, schedule)
    epsilon, share = output.detach().chunk(2, dim=1)
    log_variance = schedule.log_variance(share, t)
    mean = schedule.step_back(schedule.picture(x_t, epsilon, t), x_t, t)
    likelihood = -bin_log_likelihood(x0, mean, log_variance / 2).mean((1, 2, 3)) / math.log(2)
    true = schedule.step_back(x0, x_t, t), schedule.at(schedule.log_smallest, t, x_t)
    divergence = gaussian_divergence(*true, mean, log_variance).mean((1, 2, 3)) / math.log(2)
    assert torch.allclose(variational, torch.stack([likelihood[0], divergence[1]]))
    assert abs(likelihood[1] - divergence[1]) > 1e-3
    variational.sum().backward()
    assert output.grad[:, :1].abs().max() == 0 and (output.grad[:, 1:] != 0).any()


def test_a_generator_makes_ancestral_samples_repeat_themselves():
    dit, noise, labels = small(), torch.randn(2, 2, 4, 4), torch.tensor([0, 1])

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sampling.sample_diffusion(dit, labels, noise, 4, 2.0, "ancestral", generator)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"steps": 0}, r"steps must be a whole number in \[1, 1000\]; got 0"),
        ({"cfg": 0.5}, r"cfg must be a number in \[1, 1000\]; got 0.5"),
        ({"cfg": math.nan}, "cfg must be a number"),
        ({"cfg": 1e38}, "cfg must be a number"),
        ({"method": "euler"}, "method must be 'ancestral' or 'ddim'; got 'euler'"),
        ({"noise": torch.zeros(2, 2, 4, 5)}, r"noise of shape \(2, 2, 4, 4\); got \(2, 2, 4, 5\)"),
        ({"labels": torch.tensor([0, 4])}, "4"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_impossible_parameters_are_refused(change, sentence):
    settings = {"labels": torch.tensor([0, 1]), "noise": torch.zeros(2, 2, 4, 4), "steps": 2, "cfg": 1.0}
    with pytest.raises(ValueError, match=sentence):
        sampling.sample_diffusion(small(), **{**settings, **change})


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"heads": 3}, "multiple of heads; got width 16, heads 3"),
        ({"width": 18, "heads": 2}, "multiple of 4"),
        ({"patch": 3}, "divide into patches; got input_size 4, patch 3"),
        ({"guided_channels": 3}, "At most all 2 channels are guided; got 3"),
        ({"depth": 0}, "depth must be a whole number"),
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiTConfig(**{**SMALL, **change})
    with pytest.raises(ValueError, match="Unknown DiT 'M/2': expected one of S, B, L, XL"):
        DiTConfig.from_name("M/2")


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"Expected pictures \(B, 2, 4, 4\); got \(1, 2, 8, 8\)"):
        small()(torch.zeros(1, 2, 8, 8), torch.tensor([0]), torch.tensor([0]))
