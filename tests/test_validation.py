"""The held-out loss while a model trains: what it is the mean of, what it leaves alone, and the best checkpoint."""

import dataclasses
import json

import pytest
import torch
from conftest import Interrupted, tokenizer_config, var_config, wake
from test_train import TINY, blobs, log_of

from minivar import checkpoints, files, training
from minivar.distributed import Ranks
from minivar.models import GPT, VAR, GPTConfig
from minivar.tokenizer import VQVAE, write_cache
from minivar.tokenizer.caches import TokenCache

CPU = torch.device("cpu")


def heldout(count: int = 21):
    """Other blobs than those that are trained on; their number is no multiple of the batch size."""
    images = blobs(200)
    return type(images)(images.images[-count:], images.labels[-count:], images.class_names)


def var_task(validation=None, cls=training.VARTask):
    torch.manual_seed(0)
    model = VAR(var_config(drop_path=0.1, gamma_init=0.1))
    return cls(model, wake(VQVAE(tokenizer_config())), blobs(), validation=validation)


def tokenizer_task(validation=None):
    torch.manual_seed(0)
    return training.TokenizerTask(VQVAE(tokenizer_config()), blobs(), validation=validation)


def without_validation(entries: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if not k.startswith("validation_")} for entry in entries]


@pytest.mark.parametrize("make", [var_task, tokenizer_task])
def test_looking_at_heldout_images_changes_nothing_else(make, tmp_path):
    training.fit(make(), TINY, tmp_path / "without", progress=False)
    training.fit(make(heldout()), TINY, tmp_path / "with", progress=False)
    assert without_validation(log_of(tmp_path / "with")) == log_of(tmp_path / "without")
    name = make().name
    one, other = (
        checkpoints.load(tmp_path / run / f"{name}.safetensors")[0].state_dict() for run in ("with", "without")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_it_is_the_loss_of_all_heldout_images_by_the_weights_of_that_step(tmp_path):
    images = heldout()
    task = var_task(images)
    training.fit(task, TINY, tmp_path, progress=False)
    entries = log_of(tmp_path)
    assert [entry["step"] for entry in entries if "validation_loss" in entry] == [4, 8, 12]  # with the checkpoints
    model, tokenizer = task.model.eval(), task.tokenizer
    with torch.no_grad():
        tokens = torch.cat(tokenizer.encode(images.batch(slice(None))[0]), 1)
        log_p = model(images.labels, tokenizer.teacher_inputs(model.schedule.split(tokens))).log_softmax(-1)
        losses = -log_p.gather(2, tokens[..., None])[..., 0]
    assert entries[-1]["validation_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    by_scale = [part.mean().item() for part in losses.split(model.schedule.counts, 1)]
    assert entries[-1]["validation_scale_losses"] == pytest.approx(by_scale, rel=1e-5)
    hits = (log_p.argmax(-1) == tokens).float().mean().item()
    assert entries[-1]["validation_accuracy"] == pytest.approx(hits, rel=1e-5)


def test_a_tokenizer_is_judged_by_what_it_rebuilds(tmp_path):
    images, task = heldout(), tokenizer_task(heldout())
    training.fit(task, TINY, tmp_path, progress=False)
    pixels = images.batch(slice(None))[0]
    rebuilt = task.model.eval()(pixels).reconstruction
    entry = log_of(tmp_path)[-1]
    assert entry["validation_mse"] == pytest.approx((rebuilt - pixels).square().mean().item(), rel=1e-5)
    assert entry["validation_l1"] == pytest.approx((rebuilt - pixels).abs().mean().item(), rel=1e-5)
    assert entry["validation_loss"] > entry["validation_mse"]  # with the quantiser's


def test_raster_order_and_token_caches_have_it_too(tmp_path):
    tokenizer = wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))
    write_cache(tokenizer, heldout(), tmp_path / "tokens", progress=False)
    shape = {"width": 16, "heads": 1, "grid": (4, 4), "codebook_size": 16, "num_classes": 5}
    logs = []
    for name, validation in (("images", heldout()), ("cache", TokenCache(tmp_path / "tokens"))):
        torch.manual_seed(0)
        task = training.GPTTask(GPT(GPTConfig(depth=1, **shape)), tokenizer, blobs(), validation=validation)
        training.fit(task, TINY, tmp_path / name, progress=False)
        logs.append(log_of(tmp_path / name))
    assert logs[0] == logs[1]
    assert len(logs[0][-1]["validation_row_losses"]) == 4


def test_averaged_weights_are_judged_and_then_put_away(tmp_path):
    config = dataclasses.replace(TINY, ema=0.5)
    task = var_task(heldout())
    training.fit(task, config, tmp_path, progress=False)  # hands on the averaged model
    stats = [task.heldout_loss(torch.arange(21), CPU)["loss"].item()]
    assert log_of(tmp_path)[-1]["validation_loss"] == pytest.approx(stats[0], rel=1e-5)
    training.fit(var_task(), config, tmp_path / "unjudged", progress=False)
    assert without_validation(log_of(tmp_path)) == log_of(tmp_path / "unjudged")


def test_as_many_images_as_asked_for_evenly_spread(tmp_path):
    seen = []

    class Watched(training.VARTask):
        def heldout_loss(self, index, device):
            seen.append(index.tolist())
            return super().heldout_loss(index, device)

    config = dataclasses.replace(TINY, epochs=1, validate_images=7, validate_every=2, checkpoint_every=4)
    training.fit(var_task(heldout(21), Watched), config, tmp_path, progress=False)
    assert seen == [[0, 3, 6, 9, 12, 15, 18]] * 3  # after 2, 4 and 6 steps


class Scripted(training.VARTask):
    """Held-out losses that fall and rise again."""

    losses = {4: 3.0, 8: 1.0, 12: 2.0}

    def heldout_loss(self, index, device):
        return {"loss": torch.tensor(self.losses[self.step + 1])}


class Stopped(Scripted):
    """Breaks off in step 10."""

    def loss(self, index, device):
        if self.step == 10:
            raise Interrupted
        return super().loss(index, device)


BEST = dataclasses.replace(TINY, keep_best=True)


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path):
    training.fit(var_task(heldout(), Scripted), BEST, tmp_path / "whole", {"preset": "tiny"}, progress=False)
    best, header = checkpoints.load(tmp_path / "whole" / "var.best.safetensors", "VAR")
    assert header["trained"] == {"steps": 8, "validation_loss": 1.0}
    assert header["preset"] == "tiny"
    last, _ = checkpoints.load(tmp_path / "whole" / "var.safetensors", "VAR")
    assert not torch.equal(best.head.weight, last.head.weight)
    # the weights are those of step 8: of a run that is stopped after its checkpoint there
    with pytest.raises(Interrupted):
        training.fit(var_task(heldout(), Stopped), BEST, tmp_path / "stopped", progress=False)
    state, _ = files.read_tensors(tmp_path / "stopped" / "var.state.safetensors")
    assert torch.equal(state["model.head.weight"], best.head.weight)


def test_a_run_that_goes_on_remembers_the_best(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        training.fit(var_task(heldout(), Stopped), BEST, out, progress=False)
    before = (out / "var.best.safetensors").read_bytes()
    training.fit(var_task(heldout(), Scripted), BEST, out, progress=False)
    assert (out / "var.best.safetensors").read_bytes() == before  # 2.0 at step 12 is no better than 1.0 at step 8


def test_without_heldout_images_no_best_can_be_kept(tmp_path):
    with pytest.raises(training.TrainingError, match="keep_best needs held-out images to compare; got none"):
        training.fit(var_task(), BEST, tmp_path, progress=False)


def test_when_to_look_is_checked_before_the_run():
    for settings, what in (
        ({"validate_every": 3}, r"validate_every must be a multiple of log_every \(2\); got 3"),
        ({"validate_every": 0}, "validate_every must be .*; got 0"),
        ({"validate_images": 0}, "validate_images must be .*; got 0"),
    ):
        with pytest.raises(training.TrainingError, match=what):
            dataclasses.replace(TINY, **settings)
    with pytest.raises(training.TrainingError, match="Each of 2 ranks needs a held-out image; got 1"):
        training.check_config(TINY, Ranks(count=2), 96, heldout(1))


def test_other_heldout_images_are_another_run(tmp_path):
    training.fit(var_task(heldout(21)), TINY, tmp_path, progress=False)
    with pytest.raises(training.TrainingError, match=r"another configuration \(data\.validation: \d+ there"):
        training.fit(var_task(heldout(20)), TINY, tmp_path, progress=False)


def test_tensorboard_shows_it(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training.fit(var_task(heldout()), TINY, tmp_path, progress=False)
    board = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "var"))
    board.Reload()
    logged = {entry["step"]: entry["validation_loss"] for entry in log_of(tmp_path) if "validation_loss" in entry}
    shown = {event.step: event.value for event in board.Scalars("var/validation_loss")}
    assert shown == pytest.approx(logged, rel=1e-6)


def test_the_command_line_takes_the_validation_split(tmp_path, monkeypatch):
    from minivar import cli, data

    whole = {split: data.load_digits(split) for split in ("train", "validation")}

    def few(split):
        images = whole[split]
        return data.ArraySet(images.images[:64], images.labels[:64], images.class_names)

    monkeypatch.setattr("minivar.data.loading.load_digits", few)
    settings = {"epochs": 1, "batch_size": 32, "log_every": 1, "checkpoint_every": 2}
    words = [
        f"--set={stage}_train.{key}={value}" for stage in ("tokenizer", "model") for key, value in settings.items()
    ]
    small = ["--set=tokenizer.nets.base_channels=8", "--set=model.width=48"]
    assert cli.main(["train", "--preset", "digits-smoke", "--out", str(tmp_path), *words, *small]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines if "validation_loss" in line} == {"tokenizer", "var"}
