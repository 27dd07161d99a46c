"""A tokenizer and its discriminator, trained by the same loop: who learns when, and nothing lost on the way."""

import dataclasses

import pytest
import torch
from conftest import tokenizer_config
from test_train import TINY, blobs, log_of

from minivar import checkpoints, train
from minivar.losses import PIXEL_LOSS, LossConfig
from minivar.nets import DiscriminatorConfig
from minivar.state import TrainingError
from minivar.tasks import TokenizerTask
from minivar.tokenizer import VQVAE

JUDGE = DiscriminatorConfig(base_channels=8, layers=1, groups=4)
GAN = LossConfig(perceptual=0.0, gan=0.5, gan_start_step=4, lecam=0.01, r1=0.1, entropy=0.1, discriminator=JUDGE)


def task_of(loss: LossConfig = GAN) -> TokenizerTask:
    torch.manual_seed(0)
    return TokenizerTask(VQVAE(tokenizer_config()), blobs(), loss, steps=12)


def test_the_discriminator_learns_from_its_start_on(tmp_path):
    task = task_of()
    before = {key: value.clone() for key, value in task.opponent.state_dict().items()}
    moved_at = []
    original = task.after_step

    def watch(step):
        now = task.opponent.state_dict()
        moved_at.append(any(not torch.equal(now[key], value) for key, value in before.items()))
        original(step)

    task.after_step = watch
    train.fit(task, TINY, tmp_path, progress=False)
    assert moved_at == [False] * 4 + [True] * 8
    entries = log_of(tmp_path)
    assert [entry["gan_weight"] > 0 for entry in entries] == [False, False, True, True, True, True]
    assert all(entry["discriminator_loss"] > 0 for entry in entries[2:])
    assert {"lecam", "r1", "entropy", "discriminator_accuracy", "usage"} <= set(entries[-1])


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("at", [6, 9])  # after the first state
def test_a_run_that_broke_off_ends_as_if_it_had_not(tmp_path, at):
    broken, original = task_of(), TokenizerTask.after_step

    def after_step(step):
        if step == at:
            raise Stop
        original(broken, step)

    broken.after_step = after_step
    with pytest.raises(Stop):
        train.fit(broken, TINY, tmp_path / "broken", progress=False)
    resumed = task_of()
    torch.manual_seed(99)
    train.fit(resumed, TINY, tmp_path / "broken", progress=False)
    whole = task_of()
    train.fit(whole, TINY, tmp_path / "whole", progress=False)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    for one, other in ((resumed.model, whole.model), (resumed.objective, whole.objective)):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_another_loss_is_another_run(tmp_path):
    train.fit(task_of(), TINY, tmp_path, progress=False)
    with pytest.raises(TrainingError, match=r"loss\.gan: 0\.5 there, 0\.3 asked for"):
        train.fit(task_of(dataclasses.replace(GAN, gan=0.3)), TINY, tmp_path, progress=False)


def test_pixels_alone_need_no_discriminator(tmp_path):
    task = task_of(PIXEL_LOSS)
    assert task.opponent is None
    train.fit(task, TINY, tmp_path, progress=False)
    assert "gan_weight" not in log_of(tmp_path)[-1]


def test_the_final_checkpoint_holds_the_tokenizer_alone(tmp_path):
    task = task_of()
    train.fit(task, TINY, tmp_path, progress=False)
    loaded, _ = checkpoints.load(tmp_path / "tokenizer.safetensors", "VQVAE")
    assert set(loaded.state_dict()) == set(task.model.state_dict())
