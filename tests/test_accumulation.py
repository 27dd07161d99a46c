"""How a batch is shared out: every preset on 1 to 256 GPUs begins both of its trainings, or says where it would."""

import dataclasses
import itertools
import re

import pytest
import torch

from minivar import data, presets
from minivar.analysis import planner
from minivar.distributed import STRATEGIES, Ranks
from minivar.training import Batches, TrainConfig, TrainingError, accumulation, check_config

GPUS = [2**i for i in range(9)]
STAGES = ("tokenizer_train", "model_train")


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "at_a_time", "expected"),
    [
        (768, 8, 1, None, 1),
        (768, 8, 4, None, 4),
        (768, 8, 1, 24, 4),  # 96 images a rank
        (768, 8, 1, 23, 6),  # 5 parts would not be equal
        (768, 128, 1, 24, 1),  # 6 images a rank: what accumulate=4 could not cut
        (768, 1, 1, 1, 768),
        (768, 8, 4, 24, 4),
        (768, 8, 4, 20, 8),  # a multiple of what was asked for
        (7, 1, 1, 3, 7),
    ],
)
def test_parts_are_as_few_as_fit(batch, ranks, accumulate, at_a_time, expected):
    config = TrainConfig(batch_size=batch, accumulate=accumulate, images_at_a_time=at_a_time)
    assert accumulation(config, ranks) == expected


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "ways"),
    [
        (128, 256, 1, "expected 128 ranks, or a batch of 256"),
        (768, 7, 1, "expected 6 or 8 ranks, or a batch of 763 or 770"),
        (48, 32, 1, "expected 24 or 48 ranks, or a batch of 32 or 64"),
        (32, 1, 3, "expected accumulate 2 or 4, or a batch of 30 or 33"),
        (768, 128, 4, "expected 96 or 192 ranks, or accumulate 3 or 6, or a batch of 512 or 1024"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_with_the_nearest_numbers(batch, ranks, accumulate, ways):
    config = TrainConfig(batch_size=batch, accumulate=accumulate)
    with pytest.raises(TrainingError) as error:
        accumulation(config, ranks)
    assert str(error.value) == (
        f"A batch of {batch} images must be a multiple of ranks x accumulate; got {ranks} ranks and accumulate "
        f"{accumulate}, {ways}."
    )


def test_all_ranks_together_see_each_image_of_a_batch_once():
    images = data.ArraySet(torch.zeros(100, 1, 2, 2), torch.zeros(100), ["a"])
    config = TrainConfig(batch_size=48, images_at_a_time=5)
    config = dataclasses.replace(config, accumulate=accumulation(config, 4))
    assert accumulation(config, 4) == config.accumulate == 3
    ranks = [Ranks(rank=rank, count=4, strategy="ddp") for rank in range(4)]
    parts = torch.stack([Batches(images, config, each).parts(1) for each in ranks])
    assert parts.shape == (4, 3, 4)  # 12 images a rank, in three parts of four
    assert parts.flatten().sort().values.tolist() == Batches(images, config, ranks[0]).whole(1).sort().values.tolist()


def begins(config: TrainConfig, gpus: int, strategy: str | None) -> str:
    """What the training loop says to such a run before it begins; "" if nothing is wrong."""
    try:
        check_config(config, Ranks(count=gpus, strategy=strategy), planner.IMAGENET, validation=range(50_000))
    except TrainingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_on_every_number_of_gpus(name):
    preset = presets.get(name)
    cases = [(1, None), *itertools.product(GPUS, STRATEGIES)]
    for stage, (gpus, strategy) in itertools.product(STAGES, cases):
        config = getattr(preset, stage)
        wrong = begins(config, gpus, strategy)
        if not wrong:
            parts = accumulation(config, gpus)
            assert config.batch_size % (gpus * parts) == 0
            assert config.batch_size // (gpus * parts) <= (config.images_at_a_time or config.batch_size)
            continue
        named = re.search(r"expected (\d+)(?: or (\d+))? ranks, or a batch of (\d+)(?: or (\d+))?\.$", wrong)
        assert named, wrong
        *ranks, low, high = [number and int(number) for number in named.groups()]
        for count in filter(None, ranks):
            assert not begins(config, count, strategy)
        between = range(min(filter(None, ranks)) + 1, max(filter(None, (gpus, *ranks))))
        assert all(begins(config, count, strategy) for count in between)  # none is nearer
        for batch in filter(None, (low, high)):
            assert not begins(dataclasses.replace(config, batch_size=batch), gpus, strategy)
            assert abs(batch - config.batch_size) < gpus


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if name.startswith("var-")])
@pytest.mark.parametrize("gpus", GPUS)
def test_the_published_runs_begin_everywhere(name, gpus):
    assert not any(begins(getattr(presets.get(name), stage), gpus, "fsdp") for stage in STAGES)


def test_the_planner_refuses_what_the_loop_would_refuse():
    with pytest.raises(
        planner.PlanError, match="The tokenizer of duel-var cannot be trained so: A batch of 64 ima.*"
    ):
        planner.plan("duel-var", 128)
    with pytest.raises(
        planner.PlanError, match="The transformer of duel-var cannot .* got 8 ranks and accumulate 3,"
    ):
        planner.plan("duel-var", 8, accumulate=3)
