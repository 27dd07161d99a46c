"""Schedule arithmetic, the block-causal mask, and schedules that cannot be."""

import pytest
import torch

from minivar.scales import PUBLISHED, VAR_256, VAR_512, VAR_1024, ScaleSchedule
from minivar.tokenizer import NetConfig, TokenizerConfig


@pytest.mark.parametrize(("schedule", "tokens"), [(VAR_256, 680), (VAR_512, 2240), (VAR_1024, 9451)])
def test_published_schedules_have_the_published_number_of_tokens(schedule, tokens):
    assert schedule.num_tokens == sum(h * w for h, w in schedule.grids) == tokens
    assert PUBLISHED[tokens] is schedule


def test_counts_bounds_and_levels_of_a_small_schedule():
    schedule = ScaleSchedule(((1, 1), (1, 2), (2, 3)))
    assert schedule.num_scales == 3
    assert schedule.counts == (1, 2, 6)
    assert schedule.bounds == ((0, 1), (1, 3), (3, 9))
    assert schedule.final_grid == (2, 3)
    assert schedule.level_ids().tolist() == [0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert str(schedule) == "1, 1x2, 2x3"


def test_sides_and_pairs_mean_the_same_schedule():
    assert ScaleSchedule((1, 2, 3)) == ScaleSchedule([[1, 1], (2, 2), 3])
    assert hash(ScaleSchedule((1, 2, 3))) == hash(ScaleSchedule(((1, 1), (2, 2), (3, 3))))


@pytest.mark.parametrize("grids", [(1, 2, 3), ((1, 1), (1, 2), (2, 3)), ((2, 2), (3, 3)), (5,)])
def test_mask_equals_brute_force(grids):
    schedule = ScaleSchedule(grids)
    mask = schedule.block_causal_mask()
    assert mask.dtype == torch.bool
    for scale_q, (begin_q, end_q) in enumerate(schedule.bounds):
        for query in range(begin_q, end_q):
            for scale_k, (begin_k, end_k) in enumerate(schedule.bounds):
                for key in range(begin_k, end_k):
                    assert mask[query, key] == (scale_k <= scale_q)


def test_split_cuts_the_sequence_at_the_bounds():
    schedule = ScaleSchedule((1, 2, 3))
    tokens = torch.arange(28).view(2, 14)
    parts = schedule.split(tokens)
    assert [tuple(p.shape) for p in parts] == [(2, 1), (2, 4), (2, 9)]
    assert torch.equal(torch.cat(parts, dim=1), tokens)


def test_split_refuses_another_number_of_tokens():
    with pytest.raises(ValueError, match=r"Expected 14 tokens in dimension 1; got \(2, 13\)\."):
        ScaleSchedule((1, 2, 3)).split(torch.zeros(2, 13))


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ((), "at least one grid; got none"),
        ((1, 3, 2), "must increase; got 2x2 after 3x3"),
        ((1, 2, 2), "must increase; got 2x2 after 2x2"),
        (((2, 3), (3, 2)), "must increase; got 3x2 after 2x3"),
        ((0, 1), r"pair of positive integers; got \(0, 0\)"),
        ((-1, 1), r"pair of positive integers; got \(-1, -1\)"),
        ((1.5, 2), r"pair of positive integers; got \(1.5, 1.5\)"),
        (((1, 2, 3),), r"pair of positive integers; got \(1, 2, 3\)"),
        ("123", "tuple of grids; got '123'"),
        (4, "tuple of grids; got 4"),
    ],
)
def test_impossible_schedules_are_refused_in_one_sentence(grids, words):
    with pytest.raises(ValueError, match=words) as caught:
        ScaleSchedule(grids)
    assert "\n" not in str(caught.value)


def test_the_last_grid_must_be_the_latent_grid():
    nets = NetConfig(multipliers=(1, 1, 2), base_channels=32)
    with pytest.raises(ValueError, match=r"got \(4, 4\), expected \(8, 8\) for \(32, 32\) pixels at stride 4"):
        TokenizerConfig(image_size=32, nets=nets, schedule=ScaleSchedule((1, 2, 4)))
