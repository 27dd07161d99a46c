"""Schedules, the order of the data, what stops a run, and a run that is killed and goes on as if it had not been."""

import dataclasses
import functools
import json
import math
import signal
import time

import numpy as np
import processes
import pytest
import torch
from conftest import Interrupted, Stopping, tokenizer_config, var_config, wake

from minivar import checkpoints, cli, data, evaluation, files, training
from minivar.data import ArraySet
from minivar.models import VAR
from minivar.precision import convolution_order
from minivar.presets import get
from minivar.sampling import SamplingConfig
from minivar.tokenizer import VQVAE
from minivar.training import Preset, TrainConfig, TrainingError

TINY = TrainConfig(epochs=2, batch_size=16, base_lr=0.02, clip=1.0, log_every=2, checkpoint_every=4)


def tiny_preset(**config) -> Preset:
    train_config = dataclasses.replace(TINY, **config)
    tokenizer, var = tokenizer_config(), var_config(drop_path=0.1, gamma_init=0.1)
    return Preset("tiny", "digits", 1, tokenizer, train_config, var, train_config, SamplingConfig())


def blobs(count: int = 96) -> ArraySet:
    """Five classes of 16 x 16 images: a bright square whose place is the class, in noise."""
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 60, (count, 1, 16, 16), dtype=np.uint8), random.randint(0, 5, count)
    for image, label in zip(images, labels):
        image[:, 3 * label : 3 * label + 4, 2:14] = 250
    return ArraySet(images, labels, list("abcde"))


def log_of(out, phase: str | None = None) -> list[dict]:
    """Entries of the log without what a clock decides."""
    entries = training.read_log(out / "metrics.jsonl")
    return [
        {k: v for k, v in e.items() if k not in ("seconds", "cpu_seconds")}
        for e in entries
        if phase in (None, e["phase"])
    ]


# Where weights lie ------------------------------------------------------------------------------------------------


def test_channels_last_is_for_gpus_and_changes_neither_losses_nor_files(tmp_path, monkeypatch):
    assert convolution_order("cuda:1") is torch.channels_last
    assert convolution_order(torch.device("cpu")) is torch.preserve_format
    preset, logs = tiny_preset(), {}
    for order in (torch.preserve_format, torch.channels_last):
        for module in ("stages", "tasks"):
            monkeypatch.setattr(f"minivar.training.{module}.convolution_order", lambda device, order=order: order)
        out = tmp_path / str(order)
        tokenizer = training.train_tokenizer(preset, blobs(), out, progress=False)
        training.train_model(preset, tokenizer, blobs(), out, progress=False)
        logs[order] = [entry["loss"] for entry in log_of(out)]
        weight = tokenizer.encoder.conv_in.weight  # of one input channel: both orders are the same there
        inner = next(p for p in tokenizer.decoder.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1)
        assert weight.is_contiguous() and inner.is_contiguous() == (order is torch.preserve_format)
        loaded, _ = checkpoints.load(out / "tokenizer.safetensors", "VQVAE")
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), tokenizer.parameters(), strict=True))
    plain, last = logs.values()
    assert len(plain) == len(last) > 4
    assert last == pytest.approx(plain, rel=0.02)


# Schedules --------------------------------------------------------------------------------------------------------


def published_learning_rate(step: int, steps: int, peak: float, final: float) -> float:
    """The published schedule "lin0": warm-up over 1/50 of the run, 5 % of the rest at the peak, then linear."""
    warm = round(steps / 50)
    if step < warm:
        return peak * (0.005 + 0.995 * step / warm)
    passed = (step - warm) / (steps - 1 - warm)
    return peak if passed < 0.05 else peak * (final + (1 - final) * (1 - passed) / 0.95)


@pytest.mark.parametrize(("steps", "final"), [(1000, 0.1), (350_000, 0.01), (75, 0.01)])
def test_learning_rate_follows_the_published_schedule(steps, final):
    config = TrainConfig(base_lr=8e-5, batch_size=1024, final_lr_ratio=final)
    peak = 8e-5 * 1024 / 256
    marks = {
        0,
        1,
        steps // 60,
        steps // 50,
        steps // 50 + 1,
        steps // 15,
        steps // 10,
        steps // 2,
        steps - 2,
        steps - 1,
    }
    for step in marks:
        expected = published_learning_rate(step, steps, peak, final)
        assert training.learning_rate(step, steps, config) == pytest.approx(expected, rel=1e-9)
    assert training.learning_rate(0, steps, config) == pytest.approx(0.005 * peak)
    assert max(training.learning_rate(step, steps, config) for step in range(0, steps, max(1, steps // 500))) <= peak
    assert training.learning_rate(round(steps / 50), steps, config) == peak


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_shortest_runs_have_a_learning_rate(steps):
    rates = [training.learning_rate(step, steps, TINY) for step in range(steps)]
    assert all(0 < rate <= TINY.base_lr * TINY.batch_size / 256 for rate in rates)


def test_weight_decay_follows_a_cosine_or_stays():
    config = TrainConfig(weight_decay=0.05, final_weight_decay=0.08)
    for step in (0, 1, 250, 500, 999):
        expected = 0.08 + (0.05 - 0.08) * (0.5 + 0.5 * math.cos(math.pi * step / 999))
        assert training.weight_decay(step, 1000, config) == pytest.approx(expected)
    assert training.weight_decay(0, 1000, config) == pytest.approx(0.05)
    assert training.weight_decay(999, 1000, config) == pytest.approx(0.08)
    assert training.weight_decay(700, 1000, TrainConfig()) == 0.05


@pytest.mark.parametrize("shared", [False, True])
def test_matrices_and_the_class_embedding_decay_and_nothing_else(shared):
    model = VAR(var_config(shared_adaln=shared))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = training.parameter_groups(model)
    decays, plain = ({names[id(p)] for p in group["params"]} for group in groups)
    assert [group["decays"] for group in groups] == [True, False]
    assert decays | plain == set(names.values())
    assert not decays & plain
    expected = {"word_embed.weight", "class_embed.weight", "head_ada.weight", "head.weight"}
    expected |= {"shared_ada.weight"} if shared else {f"blocks.{i}.ada.weight" for i in range(2)}
    for i in range(2):
        expected |= {f"blocks.{i}.{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert decays == expected


# The order of the data --------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_image_once_in_another_order():
    config = TrainConfig(batch_size=8, seed=3)
    epochs = [torch.cat([training.batch_indices(e * 5 + i, 40, config) for i in range(5)]) for e in range(3)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(40))
    assert not torch.equal(epochs[0], epochs[1])


def test_the_order_depends_on_seed_and_step_alone():
    config = TrainConfig(batch_size=8, seed=3)
    first = training.batch_indices(7, 43, config)
    torch.manual_seed(1)
    assert torch.equal(training.batch_indices(7, 43, config), first)
    assert torch.equal(training.batch_indices(7, 43, dataclasses.replace(config, epochs=1)), first)
    assert not torch.equal(training.batch_indices(7, 43, dataclasses.replace(config, seed=4)), first)
    assert len(first) == 8


def test_steps_count_whole_batches():
    assert training.total_steps(43, TrainConfig(batch_size=8, epochs=3)) == 15
    assert training.total_steps(43, TrainConfig(batch_size=8, epochs=0.5)) == 2
    assert training.total_steps(43, TrainConfig(batch_size=8, epochs=0.01)) == 1


# What stops a run -------------------------------------------------------------------------------------------------


def test_a_dataset_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="The dataset has 10 images, fewer than one batch of 16"):
        training.train_tokenizer(tiny_preset(), blobs(10), tmp_path, progress=False)


def test_checkpoints_fall_on_log_entries(tmp_path):
    with pytest.raises(TrainingError, match=r"must be a multiple of log_every \(2\); got 5"):
        training.train_tokenizer(tiny_preset(checkpoint_every=5), blobs(), tmp_path, progress=False)


def test_resuming_on_other_images_is_refused(tmp_path):
    training.fit(training.TokenizerTask(VQVAE(tokenizer_config()), blobs()), TINY, tmp_path, progress=False)
    other = blobs()
    other.images[0, 0, 0, 0] += 1
    with pytest.raises(TrainingError, match=r"another configuration \(data.fingerprint: \d+ there, \d+ asked for\)"):
        training.fit(training.TokenizerTask(VQVAE(tokenizer_config()), other), TINY, tmp_path, progress=False)


def test_resuming_with_another_configuration_names_the_difference(tmp_path):
    training.train_tokenizer(tiny_preset(epochs=0.5), blobs(), tmp_path, progress=False)
    before = (tmp_path / "tokenizer.state.safetensors").read_bytes()
    with pytest.raises(TrainingError) as caught:
        training.train_tokenizer(tiny_preset(epochs=0.5, base_lr=0.01), blobs(), tmp_path, progress=False)
    assert "another configuration (train.base_lr: 0.02 there, 0.01 asked for)" in str(caught.value)
    assert (tmp_path / "tokenizer.state.safetensors").read_bytes() == before


class Poisoned(ArraySet):
    """Good batches, then one with a pixel that is not a number."""

    def __init__(self, good: int) -> None:
        clean = blobs()
        super().__init__(clean.images, clean.labels, clean.class_names)
        self.left = good

    def batch(self, index, epoch=0):
        images, labels = super().batch(index)
        self.left -= 1
        if self.left < 0:
            images[0, 0, 0, 0] = math.nan
        return images, labels


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(TrainingError) as caught:
        # six steps, and the pictures at the checkpoint after the fourth
        training.train_tokenizer(tiny_preset(), Poisoned(good=7), tmp_path, progress=False)
    message = str(caught.value)
    assert message.startswith("The loss of tokenizer became nan")
    assert "at step 6, expected finite numbers; the last good checkpoint is" in message
    assert "\n" not in message
    tensors, header = files.read_tensors(tmp_path / "tokenizer.state.safetensors")
    assert header["step"] == 4
    assert all(value.isfinite().all() for value in tensors.values())
    # With clean data the same command goes on from there and ends where a clean run ends.
    training.train_tokenizer(tiny_preset(), blobs(), tmp_path, progress=False)
    training.train_tokenizer(tiny_preset(), blobs(), tmp_path / "clean", progress=False)
    assert log_of(tmp_path) == log_of(tmp_path / "clean")


def test_a_gradient_that_is_not_a_number_stops_the_run_before_it_reaches_the_weights(tmp_path):
    class Task(training.TokenizerTask):
        calls = 0

        def loss(self, index, device):
            loss, stats = super().loss(index, device)
            self.calls += 1
            if self.calls == 4:  # sqrt has an infinite slope at 0: the loss is finite, its gradient is not
                loss = loss + (self.model.encoder.conv_in.bias * 0).sum().sqrt()
            return loss, stats

    torch.manual_seed(0)
    task = Task(VQVAE(tokenizer_config()), blobs())
    with pytest.raises(TrainingError, match=r"gradient norm nan\) at step 3.* nothing was saved yet"):
        training.fit(task, TINY, tmp_path, progress=False)
    assert all(parameter.isfinite().all() for parameter in task.model.parameters())
    assert not (tmp_path / "tokenizer.state.safetensors").exists()


# Learning ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A finished run on blobs: (folder, tokenizer, transformer)."""
    out, preset = tmp_path_factory.mktemp("run"), tiny_preset(epochs=20)
    tokenizer = training.train_tokenizer(preset, blobs(), out, progress=False)
    return out, tokenizer, training.train_model(preset, tokenizer, blobs(), out, progress=False)


def test_both_losses_go_down(tiny_run):
    out, _, _ = tiny_run
    pixels = [entry["mse"] for entry in log_of(out, "tokenizer")]
    assert pixels[-1] < 0.3 * pixels[0]
    losses = [entry["loss"] for entry in log_of(out, "var")]
    assert losses[0] == pytest.approx(math.log(16), abs=0.15)  # an untrained model guesses among 16 codes
    assert losses[-1] < 0.75 * losses[0]


def test_the_log_holds_every_scale(tiny_run):
    out, _, _ = tiny_run
    for entry in log_of(out, "tokenizer"):
        assert len(entry["usage"]) == len(entry["perplexity"]) == len(entry["scale_errors"]) == 3
        assert 0 < min(entry["usage"]) <= max(entry["usage"]) <= 1
    for entry in log_of(out, "var"):
        assert len(entry["scale_losses"]) == len(entry["scale_accuracies"]) == 3
        mean = sum(n * loss for n, loss in zip((1, 4, 16), entry["scale_losses"])) / 21
        assert entry["loss"] == pytest.approx(mean, rel=1e-4)  # every position weighs the same
        assert 0 < entry["accuracy"] < 1


def test_a_run_leaves_two_checkpoints_that_belong_together(tiny_run):
    out, tokenizer, model = tiny_run
    loaded_tokenizer, loaded_model, header = checkpoints.load_pair(out)
    assert header["preset"] == "tiny"
    assert header["sampling"] == {"cfg": 1.5, "top_k": 900, "top_p": 0.96}
    assert header["trained"] == {"steps": 120, "images": 96}
    for trained, loaded in ((tokenizer, loaded_tokenizer), (model, loaded_model)):
        assert not trained.training
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in trained.state_dict().items())


def test_averaged_weights_are_what_a_run_hands_on(tmp_path):
    plain = training.train_tokenizer(tiny_preset(), blobs(), tmp_path / "plain", progress=False).state_dict()
    averaged = training.train_tokenizer(
        tiny_preset(ema=0.9), blobs(), tmp_path / "averaged", progress=False
    ).state_dict()
    again = training.train_tokenizer(
        tiny_preset(ema=0.9), blobs(), tmp_path / "averaged", progress=False
    ).state_dict()
    loaded, _ = checkpoints.load(tmp_path / "averaged" / "tokenizer.safetensors", "VQVAE")
    assert not torch.equal(averaged["encoder.conv_in.weight"], plain["encoder.conv_in.weight"])
    for key, value in loaded.state_dict().items():
        assert torch.equal(averaged[key], value)
        assert torch.equal(again[key], value)


def test_a_compiled_run_does_what_a_plain_one_does(tmp_path, monkeypatch):
    # Traced as for the real backend, without the code that a C++ compiler would make of it.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    tokenizer = training.train_tokenizer(tiny_preset(), blobs(), tmp_path / "tokenizer", progress=False)
    preset = tiny_preset(epochs=1)
    compiled = dataclasses.replace(preset, model_train=dataclasses.replace(preset.model_train, compile=True))
    models = []
    for name, each in (("plain", preset), ("compiled", compiled)):
        torch.manual_seed(0)
        models.append(training.train_model(each, tokenizer, blobs(), tmp_path / name, progress=False).state_dict())
    losses = [[entry["loss"] for entry in log_of(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert models[0].keys() == models[1].keys()
    assert (tmp_path / "compiled" / "var.safetensors").is_file()


def test_a_finished_run_is_not_trained_again(tiny_run):
    out, tokenizer, _ = tiny_run
    before = (out / "metrics.jsonl").read_bytes()
    again = training.train_tokenizer(tiny_preset(epochs=20), blobs(), out, progress=False)
    assert (out / "metrics.jsonl").read_bytes() == before
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in tokenizer.state_dict().items())


@pytest.mark.slow
def test_every_scale_uses_many_codes_after_a_short_training_on_digits(tmp_path):
    short = {"epochs": 0.75, "batch_size": 32, "checkpoint_every": 1000}
    settings = {f"tokenizer_train.{field}": value for field, value in short.items()}
    preset = get("digits-smoke", {"tokenizer.nets.base_channels": 8, **settings})
    tokenizer = training.train_tokenizer(preset, data.load("digits"), tmp_path, progress=False)
    images = data.load("digits", "heldout").batch(slice(0, 1000))[0]
    usage = evaluation.codebook_usage(tokenizer.encode(images), preset.tokenizer.codebook_size)
    # Half of what two seeds reached at the least, .018 .293 .385 .648. Scale 1, one token an image, needs longer.
    # Without revival the codebook collapses: the last scale stayed at .158 and .170.
    floors = (0.009, 0.15, 0.19, 0.32)
    assert all(u["used"] >= floor for u, floor in zip(usage, floors)), usage


def test_the_loss_of_next_scale_prediction_is_the_cross_entropy_of_every_token():
    torch.manual_seed(0)
    tokenizer, model = wake(VQVAE(tokenizer_config())), wake(VAR(var_config()))
    loss, stats = training.VARTask(model, tokenizer, blobs()).loss(torch.arange(6), torch.device("cpu"))
    images, labels = blobs().batch(torch.arange(6))
    tokens = tokenizer.encode(images)
    logits = model(labels, tokenizer.teacher_inputs(tokens)).double().split((1, 4, 16), 1)
    losses, hits = [], []
    for logits_BlV, tokens_Bl in zip(logits, tokens):
        own = logits_BlV.gather(2, tokens_Bl[..., None])[..., 0]
        losses.append(logits_BlV.exp().sum(2).log() - own)  # -log softmax
        hits.append((own == logits_BlV.amax(2)).double())
    for name, parts in (("scale_losses", losses), ("scale_accuracies", hits)):
        expected = torch.stack([part.mean() for part in parts]).float()
        torch.testing.assert_close(stats[name], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, torch.cat(losses, 1).mean().float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats["accuracy"], torch.cat(hits, 1).mean().float())
    assert 0 < stats["accuracy"] < 1


@pytest.mark.parametrize(("every", "expected"), [(3, [0, 3, 6, 9]), (0, [])])
def test_dead_codes_are_revived_every_so_many_steps_or_never(tmp_path, every, expected):
    task, revived = training.TokenizerTask(VQVAE(tokenizer_config()), blobs(), revive_every=every), []
    task.model.quantizer.revive_dead_codes = lambda residuals, **how: revived.append(len(residuals))
    steps, original = [], task.after_step

    def after_step(step):
        before = len(revived)
        original(step)
        steps.extend([step] * (len(revived) - before))

    task.after_step = after_step
    training.fit(task, TINY, tmp_path, progress=False)
    assert steps == expected
    assert revived == [3] * len(expected)  # the residuals of all scales


# Killed and resumed -----------------------------------------------------------------------------------------------


class Breaking(Stopping, ArraySet):
    """``blobs`` with random noise from the global random state, which a resumed run must find where it left it."""

    def __init__(self, batches: float) -> None:
        clean = blobs()
        super().__init__(clean.images, clean.labels, clean.class_names)
        self.left = batches

    def batch(self, index, epoch=0):
        images, labels = super().batch(index, epoch)
        return images + 0.01 * torch.randn(images.shape), labels


@pytest.mark.parametrize("batches", [1, 4, 5, 11])
def test_a_run_that_broke_off_anywhere_ends_as_if_it_had_not(tmp_path, batches):
    with pytest.raises(Interrupted):
        training.train_tokenizer(tiny_preset(), Breaking(batches), tmp_path / "broken", progress=False)
    torch.manual_seed(99)  # a new process has another random state
    resumed = training.train_tokenizer(tiny_preset(), Breaking(math.inf), tmp_path / "broken", progress=False)
    whole = training.train_tokenizer(tiny_preset(), Breaking(math.inf), tmp_path / "whole", progress=False)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_half_a_line_in_the_log_costs_no_entry(tmp_path):
    with pytest.raises(Interrupted):
        training.train_tokenizer(tiny_preset(), Breaking(4), tmp_path, progress=False)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"phase": "tokenizer", "st')
    training.train_tokenizer(tiny_preset(), Breaking(math.inf), tmp_path, progress=False)
    assert [entry["step"] for entry in log_of(tmp_path)] == [2, 4, 6, 8, 10, 12]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


SETTINGS = {
    "tokenizer.nets.base_channels": 8,
    "tokenizer_train.epochs": 0.1,
    "tokenizer_train.batch_size": 20,
    "tokenizer_train.log_every": 2,
    "tokenizer_train.checkpoint_every": 4,
    "tokenizer_train.validate_images": 40,
    "model.width": 48,
    "model_train.epochs": 0.1,
    "model_train.batch_size": 20,
    "model_train.log_every": 2,
    "model_train.checkpoint_every": 4,
    "model_train.validate_images": 40,
}  # 36 steps and 18 lines of log for each of the two models


def run_command(out, kill_at: int | None) -> int:
    """Train in a process of its own; SIGKILL it once the log has ``kill_at`` lines. Returns its exit code."""
    command = ["train", "--preset", "digits-smoke", "--out", str(out)]
    command += [word for field, value in SETTINGS.items() for word in ("--set", f"{field}={value}")]
    log, said = out / "metrics.jsonl", out.with_name("said")
    process = processes.start(cli.main, command, said=said)
    while kill_at is not None and process.is_alive():
        if log.is_file() and log.read_bytes().count(b"\n") >= kill_at:
            process.kill()
        time.sleep(0.002)
    process.join(timeout=300)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
    return process.exitcode


@pytest.mark.slow
def test_a_run_killed_twice_ends_bit_for_bit_like_one_that_was_not(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run_command(whole, None) == 0
    # 18 lines belong to the tokenizer. Each time the last checkpoint is older than the last entry.
    for lines in (3, 29):
        assert run_command(killed, lines) == -signal.SIGKILL
        assert not (killed / "var.safetensors").exists()
    assert run_command(killed, None) == 0
    assert len(log_of(whole)) == 36
    assert log_of(killed) == log_of(whole)
    for name in ("tokenizer", "var"):
        tensors, header = files.read_tensors(whole / f"{name}.safetensors")
        resumed, resumed_header = files.read_tensors(killed / f"{name}.safetensors")
        assert resumed_header == header
        assert resumed.keys() == tensors.keys()
        assert all(torch.equal(resumed[key], tensors[key]) for key in tensors)
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
