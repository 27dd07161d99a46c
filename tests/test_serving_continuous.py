"""Batches whose pictures come and go: each is what it would be alone."""

import pytest
import torch
from conftest import tokenizer_config, wake

from minivar.models import GPT, GPTConfig
from minivar.sampling import RasterSamplingConfig, SamplingConfig, sample, sample_raster
from minivar.serving import ContinuousBatch, Job, PyramidBatch
from minivar.tokenizer import VQVAE

SMALL = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 5}
STYLES = {
    "llama": SMALL,
    "gpt2": {**SMALL, "style": "gpt2"},
    "var": {**SMALL, "style": "var", "dropout": 0.0},
    "var, AdaLN": {**SMALL, "style": "var", "dropout": 0.0, "conditioning": "adaln"},
}
# What people ask for differs in everything that can be asked for.
SETTINGS = (
    RasterSamplingConfig(cfg=2.0),
    RasterSamplingConfig(temperature=1.3, top_k=5),
    RasterSamplingConfig(cfg=3.5, top_p=0.8),
    RasterSamplingConfig(),
)


@pytest.fixture(params=STYLES)
def gpt(request) -> GPT:
    return wake(GPT(GPTConfig(**STYLES[request.param])))


@pytest.fixture(scope="module")
def llama() -> GPT:
    return wake(GPT(GPTConfig(**SMALL)))


@pytest.fixture(scope="module")
def raster_tokenizer() -> VQVAE:
    return wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))


def job(seed: int, **other) -> Job:
    return Job(**{"label": seed % 5, "seed": seed, "settings": SETTINGS[seed % 4], **other})


def alone(gpt: GPT, of: Job) -> list[int]:
    """The tokens of ``sample_raster``, which has never heard of batches that change."""
    generator = torch.Generator().manual_seed(of.seed)
    options = vars(of.settings) | {"greedy": of.greedy, "generator": generator}
    return sample_raster(gpt, None, torch.tensor([of.label]), **options).tokens[0].tolist()


def draw(batch, arrivals: dict[int, list[Job]]) -> list[list[Job]]:
    """Steps until all are done; ``arrivals``: the jobs that wait from a step on. Who was in the batch, by step."""
    seen, waiting = [], []
    while arrivals or waiting or batch.jobs:
        waiting += arrivals.pop(len(seen), [])
        while waiting and batch.admits(waiting[0]):
            batch.join(waiting.pop(0))
        seen.append(list(batch.jobs))
        if batch.jobs:
            batch.step()
    return seen


@pytest.mark.parametrize("greedy", [False, True])
def test_a_picture_is_the_same_whoever_else_is_in_the_batch(gpt, greedy):
    jobs = [job(seed, greedy=greedy) for seed in range(8)]
    seen = draw(ContinuousBatch(gpt, None, slots=3), {0: jobs[:1], 2: jobs[1:3], 7: jobs[3:7], 30: jobs[7:]})
    assert {len(batch) for batch in seen} >= {1, 3}  # they met
    for each in jobs:
        assert each.tokens == alone(gpt, each)
    if not greedy:
        assert len({tuple(each.tokens) for each in jobs}) == 8


def test_logits_of_rows_at_different_positions_are_those_of_the_teacher_forced_pass(gpt, monkeypatch):
    batch, logits = ContinuousBatch(gpt, None, slots=3), []
    monkeypatch.setattr(batch, "_draw", lambda logits_JV: logits.append(logits_JV) or logits_JV.argmax(-1))
    jobs = [job(seed, settings=RasterSamplingConfig()) for seed in range(3)]
    seen = draw(batch, {0: jobs[:1], 3: jobs[1:2], 10: jobs[2:]})
    for each in jobs:
        got_NV = torch.stack([table[who.index(each)] for table, who in zip(logits, seen) if each in who])
        expected_NV = gpt(torch.tensor([each.label]), torch.tensor([each.tokens[:-1]]))[0]
        torch.testing.assert_close(got_NV, expected_NV, atol=1e-5, rtol=1e-4)


def test_a_free_slot_is_taken_between_two_tokens_and_given_back_with_the_last(llama):
    jobs = [job(seed) for seed in range(4)]
    seen = draw(ContinuousBatch(llama, None, slots=2), {0: jobs[:1], 5: jobs[1:]})
    in_the_batch = [[step for step, who in enumerate(seen) if each in who] for each in jobs]
    # the first from step 0 to 15, the second beside it from 5, the third in its place, the fourth in the second's
    assert [(steps[0], steps[-1]) for steps in in_the_batch] == [(0, 15), (5, 20), (16, 31), (21, 36)]


def test_a_static_batch_lets_nobody_in_before_all_are_out(llama):
    jobs = [job(seed) for seed in range(4)]
    seen = draw(ContinuousBatch(llama, None, slots=2, static=True), {0: jobs[:1], 5: jobs[1:]})
    assert [len(who) for who in seen] == [1] * 16 + [2] * 16 + [1] * 16
    assert [each.tokens for each in jobs] == [alone(llama, each) for each in jobs]


def test_without_guidance_a_picture_has_one_row(llama):
    batch = ContinuousBatch(llama, None, slots=3)
    for seed, rows in ((0, 2), (1, 3), (2, 5)):
        batch.join(job(seed))
        assert len(batch.x_BD) == rows


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_who_is_dropped_leaves_the_others_as_they_were(llama, leaver):
    jobs = [job(seed) for seed in range(3)]
    batch = ContinuousBatch(llama, None, slots=3)
    for each in jobs:
        batch.join(each)
    for _ in range(5):
        batch.step()
    batch.drop(jobs[leaver])
    draw(batch, {})
    assert len(jobs.pop(leaver).tokens) == 5
    for each in jobs:
        assert each.tokens == alone(llama, each)


def test_what_a_failure_leaves_behind_reaches_nobody(llama):
    """Keys and values that are nan spoil whoever sits there next, even behind a mask, if they are not forgotten."""
    plain = {"settings": RasterSamplingConfig()}
    batch = ContinuousBatch(llama, None, slots=2)
    for seed in (0, 1):
        batch.join(job(seed, **plain))
    for _ in range(8):
        batch.step()
    batch.x_BD = batch.x_BD * torch.nan
    with pytest.raises(RuntimeError, match="nan"):
        batch.step()
    assert [each.seed for each in batch.clear()] == [0, 1]
    first, second = job(2, **plain), job(3, **plain)
    draw(batch, {0: [first], 10: [second]})  # beside a row that has come past the place, in the row that has not
    assert [first.tokens, second.tokens] == [alone(llama, first), alone(llama, second)]


def test_a_raster_picture_fills_in_row_by_row(llama, raster_tokenizer):
    batch, one = ContinuousBatch(llama, raster_tokenizer, slots=1), job(0)
    batch.join(one)
    for stage in range(1, 5):
        moved = [batch.step() for _ in range(4)]
        assert moved == [[], [], [], [one]]
        assert one.stage == stage
        image = batch.images([one])[0]
        grey = (image == 0.5).all(dim=2)[0]
        assert grey.tolist() == [row >= 4 * stage for row in range(16)]
    whole = raster_tokenizer.decode([torch.tensor([one.tokens])])[0]
    torch.testing.assert_close(image, (whole + 1) / 2, atol=1e-6, rtol=0)


# Whole pyramids ---------------------------------------------------------------------------------------------------


def pyramid_job(seed: int, **other) -> Job:
    return Job(**{"label": seed % 5, "seed": seed, "settings": SamplingConfig(2.0, 12, 0.9), **other})


def test_pyramids_that_begin_together_are_what_they_are_alone(model, tokenizer):
    jobs = [pyramid_job(seed) for seed in range(3)]
    batch = PyramidBatch(model, tokenizer, slots=4)
    for each in jobs:
        batch.join(each)
    assert [len(batch.step()) for _ in range(3)] == [3, 3, 3]
    assert batch.jobs == []
    images = batch.images(jobs)
    for each, image in zip(jobs, images):
        generator = torch.Generator().manual_seed(each.seed)
        expected = sample(model, tokenizer, torch.tensor([each.label]), 2.0, 12, 0.9, generator=generator)
        assert each.tokens == expected.tokens[0].tolist()
        torch.testing.assert_close(image, expected.images[0], atol=1e-5, rtol=0)


def test_nobody_joins_a_pyramid_that_has_begun_or_with_other_settings(model, tokenizer):
    batch = PyramidBatch(model, tokenizer, slots=2)
    assert batch.admits(pyramid_job(0))
    batch.join(pyramid_job(0))
    assert batch.admits(pyramid_job(1))
    assert not batch.admits(pyramid_job(1, settings=SamplingConfig(3.0)))
    batch.step()
    assert not batch.admits(pyramid_job(1))
    batch.step(), batch.step()
    assert batch.admits(pyramid_job(1, settings=SamplingConfig(3.0)))


def test_a_pyramid_goes_on_until_nobody_waits_for_it(model, tokenizer):
    jobs = [pyramid_job(seed) for seed in range(2)]
    batch = PyramidBatch(model, tokenizer, slots=2)
    for each in jobs:
        batch.join(each)
    batch.step()
    jobs[0].gone = True
    batch.drop(jobs[0])
    assert jobs[1] in batch.step()
    jobs[1].gone = True
    batch.drop(jobs[1])
    assert batch.jobs == []
    assert batch.admits(pyramid_job(2))


@pytest.mark.parametrize(
    ("change", "slots", "said"),
    [
        ({"caption_tokens": 4, "caption_dim": 6}, 2, "expects a prompt of one token, a class; got 4"),
        ({}, 0, "needs at least 1 slot; got 0"),
    ],
)
def test_what_cannot_be_batched_is_refused(change, slots, said):
    with pytest.raises(ValueError, match=said):
        ContinuousBatch(GPT(GPTConfig(**{**SMALL, **change})), None, slots)
