"""Filters, guidance, caches and seeds."""

import math

import pytest
import torch
from conftest import SCHEDULE, var_config, wake

from minivar.models import GPT, VAR, GPTConfig, products
from minivar.sampling import (
    draw_tokens,
    edit,
    filter_descending,
    filter_logits,
    guide,
    gumbel_codes,
    masks_per_scale,
    packed,
    packing,
    sample,
    sample_raster,
    sample_scales,
)
from minivar.sampling.filters import sorted_values
from minivar.sampling.winograd import WinogradConv
from minivar.scales import ScaleSchedule
from minivar.tokenizer.nets import Upsample

LABELS = torch.tensor([0, 3, 4, 5])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Filters ----------------------------------------------------------------------------------------------------------


def plain_filter(logits: list[float], top_k: int, top_p: float) -> list[float]:
    """Top-k, then of what is left the smallest set of best codes with mass above... see below, in plain Python."""
    if top_k > 0:
        threshold = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        logits = [x if x >= threshold else -math.inf for x in logits]
    if top_p > 0:
        total = sum(math.exp(x) for x in logits)
        order = sorted(range(len(logits)), key=lambda i: logits[i])  # worst first
        mass = 0.0
        for i in order[:-1]:  # the best always stays
            mass += math.exp(logits[i]) / total
            if mass > 1 - top_p:
                break
            logits = [-math.inf if j == i else x for j, x in enumerate(logits)]
    return logits


@pytest.mark.parametrize("top_k", [0, 1, 3, 11, 12, 50])
@pytest.mark.parametrize("top_p", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_filters_equal_a_plain_reference(top_k, top_p):
    logits = torch.randn(2, 5, 12, generator=seeded(), dtype=torch.float64) * 2
    filtered = filter_logits(logits, top_k, top_p)
    for b in range(2):
        for i in range(5):
            assert filtered[b, i].tolist() == plain_filter(logits[b, i].tolist(), top_k, top_p)


def test_filters_switched_off_change_nothing():
    logits = torch.randn(2, 5, 12, generator=seeded())
    assert torch.equal(filter_logits(logits, 0, 0.0), logits)
    assert torch.equal(filter_logits(logits, 1000, 0.0), logits)
    assert torch.equal(filter_logits(logits, 0, 1.0), logits)


def test_codes_that_tie_for_the_last_place_all_stay():
    logits = torch.tensor([[[3.0, 1.0, 2.0, 2.0, 0.0]]])
    assert filter_logits(logits, top_k=2).isfinite().tolist() == [[[True, False, True, True, False]]]


def test_codes_equal_to_the_last_one_kept_survive():
    logits = torch.tensor([[[2.0, 1.0, 3.0, 1.0, 0.0]]])
    # probabilities .22, .08, .59, .08, .03: two have a mass of .81, a third crosses .85 with its twin
    assert filter_logits(logits, top_p=0.85).isfinite().tolist() == [[[True, True, True, True, False]]]
    kept = filter_descending(logits[0], top_p=0.85).isfinite().tolist()
    assert kept == [[True, True, True, True, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_sorted_as_torch_sorts_them(dtype):
    logits = torch.randn(3, 5, 40, generator=seeded()).to(dtype).masked_fill(torch.arange(40) % 7 == 0, -torch.inf)
    assert torch.equal(sorted_values(logits), logits.sort(dim=-1).values)


def test_nucleus_is_taken_of_what_top_k_left():
    # Probabilities .4 .3 .2 .1. Of all four, p = .65 keeps two; of the best two (4/7, 3/7) p = .5 keeps one.
    logits = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]).log()
    assert filter_logits(logits, top_p=0.65).isfinite().tolist() == [[[True, True, False, False]]]
    assert filter_logits(logits, top_k=2, top_p=0.5).isfinite().tolist() == [[[True, False, False, False]]]


def test_the_best_code_survives_the_strictest_filters():
    logits = torch.randn(3, 4, 9, generator=seeded())
    filtered = filter_logits(logits, top_p=1e-9)  # 1 - p rounds to 1: every code's mass is below it
    assert torch.equal(filtered.isfinite().sum(-1), torch.ones(3, 4).long())
    assert torch.equal(filtered.argmax(-1), logits.argmax(-1))


def test_tokens_are_drawn_with_the_probabilities_of_their_logits():
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    tokens = draw_tokens(probabilities.log().expand(4, 5000, 4), seeded())
    assert tokens.shape == (4, 5000)
    share = torch.bincount(tokens.flatten(), minlength=4) / 20000
    assert torch.allclose(share, probabilities, atol=0.015)
    assert share[3] == 0


# Guidance ---------------------------------------------------------------------------------------------------------


def test_guidance_moves_from_the_unconditional_past_the_conditional():
    logits = torch.tensor([[[1.0, 2.0]], [[0.0, 4.0]]])  # conditional, unconditional
    assert guide(logits, 0.0).tolist() == [[[1.0, 2.0]]]
    assert guide(logits, 2.0).tolist() == [[[3.0, -2.0]]]


def test_guidance_ramps_from_nothing_to_cfg(model, tokenizer, monkeypatch):
    strengths = []

    def recorded(logits, strength):
        strengths.append(strength)
        return guide(logits, strength)

    monkeypatch.setattr("minivar.sampling.walk.guide", recorded)
    sample(model, tokenizer, LABELS, cfg=3.0, generator=seeded())
    assert strengths == [1.5, 3.0]  # none at the first scale, where the unconditional logits are not even computed
    strengths.clear()
    sample(model, tokenizer, LABELS, cfg=3.0, generator=seeded(), ramp=False)
    assert strengths == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("cfg", [0.0, 2.0])
def test_what_guidance_does_not_need_is_not_computed(model, tokenizer, monkeypatch, cfg):
    rows = {"embed": [], "logits": []}

    def counted(name):
        whole = getattr(model, name)

        def call(*args):
            out = whole(*args)
            rows[name].append(len(out))
            return out

        monkeypatch.setattr(model, name, call)

    counted("embed")
    counted("logits")
    sample(model, tokenizer, LABELS, cfg=cfg, generator=seeded())
    assert rows == (
        {"embed": [4, 4, 4], "logits": [4, 4, 4]} if cfg == 0 else {"embed": [8, 8, 8], "logits": [4, 8, 8]}
    )


def test_the_modulation_is_computed_once_an_image(model, tokenizer, monkeypatch):
    called = []
    for block in model.blocks:
        whole = block.modulation
        monkeypatch.setattr(block, "modulation", lambda cond, whole=whole: called.append(1) or whole(cond))
    sample(model, tokenizer, LABELS, generator=seeded())
    assert len(called) == len(model.blocks)


# Packed weights ---------------------------------------------------------------------------------------------------


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(packing, "LARGE", 1)
    monkeypatch.setattr(packing, "WIDE", 1)


@pytest.mark.parametrize("variant", [{}, {"shared_adaln": True}, {"l2_norm_attention": False}], ids=str)
def test_packed_models_draw_the_same(tokenizer, everything_is_large, variant):
    model = wake(VAR(var_config(**variant)))
    options = {"cfg": 2.0, "top_k": 12, "top_p": 0.95}
    plain = sample(model, tokenizer, LABELS, **options, generator=seeded())
    fast_tokenizer = packed(tokenizer)
    fast = sample(packed(model), fast_tokenizer, LABELS, **options, generator=seeded())
    assert any(isinstance(module, WinogradConv) for module in fast_tokenizer.modules()) == products.HAS_ONEDNN
    assert torch.equal(fast.tokens, plain.tokens)
    assert torch.allclose(fast.images, plain.images, atol=1e-4)


def test_packed_upsampling_is_nearest_neighbours_and_a_convolution():
    plain = wake(Upsample(5))
    x = torch.randn(2, 5, 3, 4, generator=seeded())
    found = packing.PackedUpsample(plain.conv)(x)
    assert found.shape == (2, 5, 6, 8)
    assert torch.allclose(found, plain(x), atol=1e-5)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_packed_raster_models_draw_the_same(everything_is_large, style):
    model = wake(GPT(GPTConfig(2, 32, 2, num_classes=5, codebook_size=16, grid=(4, 4), style=style)))
    plain, fast = (sample_raster(m, None, LABELS, cfg=2.0, generator=seeded()) for m in (model, packed(model)))
    assert torch.equal(fast.tokens, plain.tokens)
    assert len(plain.tokens.unique()) > 4


def test_packing_replaces_every_large_matrix_and_leaves_the_model_as_it_was(everything_is_large):
    model = wake(VAR(var_config()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = packed(model)
    if not products.HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    assert not [name for name, module in fast.named_modules() if isinstance(module, torch.nn.Linear)]
    assert fast.position_1LD is model.position_1LD
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_small_matrices_are_left_alone():
    fast = packed(wake(VAR(var_config())))
    assert not [name for name, module in fast.named_modules() if isinstance(module, packing.PackedLinear)]


def test_what_cannot_be_packed_comes_back_as_it_is(monkeypatch):
    model = VAR(var_config())
    assert packed(model.double()) is model
    monkeypatch.setattr(products, "HAS_ONEDNN", False)
    assert packed(model.float()) is model


def test_without_guidance_images_are_those_of_the_conditional_model_alone(model, tokenizer):
    tokens = sample(model, tokenizer, LABELS, cfg=0.0, top_k=1).tokens
    logits = model(LABELS, tokenizer.teacher_inputs(SCHEDULE.split(tokens)))
    assert torch.equal(logits.argmax(-1), tokens)


# The loop ---------------------------------------------------------------------------------------------------------


def test_shapes_and_ranges_of_a_sample(model, tokenizer):
    images, tokens = sample(model, tokenizer, LABELS, generator=seeded())
    assert images.shape == (4, 1, 16, 16)
    assert images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert tokens.shape == (4, 21)
    assert tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < 16


def test_image_is_the_decoded_tokens(model, tokenizer):
    images, tokens = sample(model, tokenizer, LABELS, generator=seeded())
    assert torch.allclose(images, (tokenizer.decode(SCHEDULE.split(tokens)) + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("variant", [{}, {"shared_adaln": True}, {"l2_norm_attention": False}], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_cached_sampling_equals_uncached_sampling(tokenizer, variant, smooth):
    model = wake(VAR(var_config(**variant)))
    options = {"cfg": 2.0, "top_k": 12, "top_p": 0.95, "smooth": smooth}
    cached = sample(model, tokenizer, LABELS, **options, generator=seeded())
    plain = sample(model, tokenizer, LABELS, **options, generator=seeded(), use_cache=False)
    assert torch.equal(cached.tokens, plain.tokens)
    assert torch.allclose(cached.images, plain.images, atol=1e-4)
    assert len(cached.tokens.unique()) > 4


def test_a_seed_determines_the_sample(model, tokenizer):
    one, again, other = (sample(model, tokenizer, LABELS, generator=seeded(s)) for s in (7, 7, 8))
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.tokens, other.tokens)


def test_without_a_generator_the_global_random_state_is_used(model, tokenizer):
    torch.manual_seed(7)
    assert torch.equal(
        sample(model, tokenizer, LABELS).tokens, sample(model, tokenizer, LABELS, generator=seeded(7)).tokens
    )


def test_greedy_sampling_needs_no_luck(model, tokenizer):
    one, other = (sample(model, tokenizer, LABELS, top_k=1, generator=seeded(s)).tokens for s in (1, 2))
    assert torch.equal(one, other)


def test_states_after_each_scale_add_up_to_the_sample(model, tokenizer):
    states = list(sample_scales(model, tokenizer.quantizer, LABELS, generator=seeded()))
    assert [s.k for s in states] == [0, 1, 2]
    assert torch.equal(
        torch.cat([s.tokens_Bl for s in states], 1), sample(model, tokenizer, LABELS, generator=seeded()).tokens
    )
    for state, f_hat in zip(states, tokenizer.quantizer.accumulate([s.tokens_Bl for s in states])):
        assert torch.allclose(state.f_hat_BChw, f_hat, atol=1e-5)


# Smoothing --------------------------------------------------------------------------------------------------------


def test_smooth_codes_are_sharper_at_fine_scales():
    logits = torch.randn(4, 50, 16, generator=seeded())
    best_share = [gumbel_codes(logits, torch.eye(16), ratio, seeded(1)).amax(-1).mean() for ratio in (0.0, 0.5, 1.0)]
    assert best_share[0] < best_share[1] < best_share[2]
    assert best_share[2] > 0.98
    assert best_share[0] < 0.9


def test_smooth_codes_mix_only_what_the_filters_left():
    logits = filter_logits(torch.randn(4, 50, 16, generator=seeded()), top_k=3)
    weights = gumbel_codes(logits, torch.eye(16), 0.0, seeded(1))
    assert torch.allclose(weights.sum(-1), torch.ones(4, 50), atol=1e-5)
    assert weights[~logits.isfinite()].max() == 0


def test_smoothing_draws_its_noise_after_the_tokens(model, tokenizer):
    hard, smooth = (sample(model, tokenizer, LABELS, generator=seeded(), smooth=s) for s in (False, True))
    assert torch.equal(hard.tokens[:, :1], smooth.tokens[:, :1])
    assert not torch.equal(hard.images, smooth.images)


# What cannot be meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cfg": -0.1}, "cfg -0.1"),
        ({"cfg": math.nan}, "cfg nan"),
        ({"cfg": math.inf}, "cfg inf"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": -0.1}, "top_p -0.1"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": math.nan}, "top_p nan"),
    ],
)
def test_impossible_parameters_are_refused(model, tokenizer, options, words):
    with pytest.raises(ValueError, match="Sampling needs cfg >= 0, top_k >= 0 and top_p in") as caught:
        sample(model, tokenizer, LABELS, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([6]), r"must lie in 0\.\.4 \(or 5, the null class\); got values from 6 to 6"),
        (torch.tensor([0, -1]), "got values from -1 to 0"),
        (torch.tensor([]).long(), r"non-empty int64 vector; got torch.int64 \(0,\)"),
        (torch.tensor([[1]]), r"non-empty int64 vector; got torch.int64 \(1, 1\)"),
        (torch.tensor([1.0]), r"non-empty int64 vector; got torch.float32 \(1,\)"),
    ],
)
def test_impossible_labels_are_refused(model, tokenizer, labels, words):
    with pytest.raises(ValueError, match=words):
        sample(model, tokenizer, labels)


def test_sampling_without_a_tokenizer_is_refused(model):
    with pytest.raises(ValueError, match="needs the tokenizer, whose codebook .* got None"):
        sample(model, None, LABELS)


# Editing ----------------------------------------------------------------------------------------------------------


def test_edit_masks_are_resized_and_a_single_token_is_always_kept():
    keep = torch.zeros(4, 4)
    keep[:, :2] = 1
    one, two, four = masks_per_scale(SCHEDULE, keep)
    assert one.tolist() == [True]
    assert two.tolist() == [True, False, True, False]
    assert torch.equal(four.view(4, 4), keep.bool())


def test_an_edit_that_keeps_everything_returns_the_reconstruction(model, tokenizer, images):
    result = edit(model, tokenizer, images, LABELS[:3], torch.ones(4, 4), generator=seeded())
    expected = (tokenizer.decode(tokenizer.encode(images)) + 1) / 2
    assert torch.allclose(result.images, expected, atol=1e-5)


def test_an_edit_mask_of_another_grid_is_refused(model, tokenizer, images):
    with pytest.raises(ValueError, match=r"latent grid \(4, 4\); got \(3, 4\)"):
        edit(model, tokenizer, images, LABELS[:3], torch.ones(3, 4))


def test_a_schedule_of_one_scale_can_be_sampled():
    from conftest import tokenizer_config

    from minivar.tokenizer import VQVAE

    schedule = ScaleSchedule((4,))
    tokenizer = wake(VQVAE(tokenizer_config(schedule=schedule)))
    model = wake(VAR(var_config(schedule=schedule)))
    assert sample(model, tokenizer, LABELS, smooth=True, generator=seeded()).tokens.shape == (4, 16)
