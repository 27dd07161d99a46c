"""The sampling loop with a stopwatch draws what the sampler draws."""

import pytest
import torch

from minivar import sampling
from minivar.analysis import stopwatch

LABELS = torch.tensor([0, 3, 4])


@pytest.mark.parametrize("cfg, top_k, top_p", [(0.0, 0, 0.0), (2.0, 0, 0.0), (3.0, 9, 0.7)])
def test_same_tokens_and_images_as_the_sampler(model, tokenizer, cfg, top_k, top_p):
    strengths = stopwatch.ramp(cfg, model.schedule.num_scales)
    ours, _ = stopwatch.sample_in_parts(
        model, tokenizer, LABELS, strengths, top_k, top_p, torch.Generator().manual_seed(1)
    )
    other = sampling.sample(model, tokenizer, LABELS, cfg, top_k, top_p, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours.tokens, other.tokens)
    assert torch.allclose(ours.images, other.images, atol=1e-5)


def test_every_part_of_every_scale_is_timed(model, tokenizer):
    K = model.schedule.num_scales
    _, seconds = stopwatch.sample_in_parts(model, tokenizer, LABELS, stopwatch.ramp(1.0, K))
    once = {(stopwatch.ADALN, 0), (stopwatch.DECODER, K - 1)}
    each = {part for part in stopwatch.PARTS if part not in (stopwatch.ADALN, stopwatch.DECODER)}
    assert set(seconds) == once | {(part, k) for part in each for k in range(K)}
    assert min(seconds.values()) > 0


def test_guidance_of_the_first_scale_changes_its_tokens(model, tokenizer):
    K, seed = model.schedule.num_scales, 1
    drawn = [
        stopwatch.sample_in_parts(
            model, tokenizer, LABELS.repeat(30), strengths, generator=torch.Generator().manual_seed(seed)
        )[0].tokens[:, 0]
        for strengths in (stopwatch.ramp(8.0, K), [8.0] * K)
    ]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("strengths", [[0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 2000.0]])
def test_impossible_strengths_are_refused(model, tokenizer, strengths):
    with pytest.raises(ValueError):
        stopwatch.sample_in_parts(model, tokenizer, LABELS, strengths)


def test_ramp_ends_at_cfg():
    assert stopwatch.ramp(3.0, 4) == [0.0, 1.0, 2.0, 3.0]
    assert stopwatch.ramp(3.0, 1) == [0.0]
