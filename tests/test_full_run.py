"""Faults that only a long run on GPUs would meet: numbers that overflow, signals, settings that change on the way.

What a GPU does differently is put in by hand here: the scaled loss of fp16, and the state of a second card. Tensors
that believe to be on a GPU are in ``test_fake_gpu.py``.
"""

import dataclasses
import functools
import math
import os
import signal
import threading

import numpy as np
import processes
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from test_gan_training import GAN, task_of
from test_train import TINY, blobs, log_of, tiny_preset

from minivar import cli, files, presets, sampling, training
from minivar.distributed import Ranks, find_device
from minivar.models import VAR
from minivar.precision import autocast, tf32
from minivar.tokenizer import VQVAE, MultiScaleQuantizer
from minivar.tokenizer.losses import PIXEL_LOSS, LossConfig, TokenizerLoss
from minivar.training import Interrupted, TokenizerTask, TrainingError, VARTask, loop, state
from minivar.training.players import LOSS_SCALE, MAX_LOSS_SCALE, Players
from minivar.training.tasks import token_losses

STATE = "tokenizer.state.safetensors"


@pytest.fixture
def fp16(monkeypatch):
    """Runs scale their loss as in fp16, though a CPU computes in float32."""
    monkeypatch.setattr(
        loop, "Players", lambda networks, config, device, fp16: Players(networks, config, device, fp16=True)
    )


class Spoilt(TokenizerTask):
    """A tokenizer whose loss, or gradient, or discriminator's loss, is spoilt at one step."""

    at, what, factor = -1, "loss", math.nan

    def loss(self, index, device):
        loss, stats = super().loss(index, device)
        if self.step == self.at and self.what == "loss":
            loss = loss * self.factor
        if self.step == self.at and self.what == "gradient":
            loss.register_hook(lambda gradient: gradient * self.factor)
        return loss, stats

    def discriminator_loss(self, discriminator):
        loss, stats = super().discriminator_loss(discriminator)
        if self.step == self.at and self.what == "discriminator":
            loss = loss * self.factor
            stats["discriminator_loss"] = loss.detach()
        return loss, stats


def spoilt(loss: LossConfig = PIXEL_LOSS, **how) -> Spoilt:
    torch.manual_seed(0)
    task = Spoilt(VQVAE(tokenizer_config()), blobs(), loss, steps=12)
    for name, value in how.items():
        setattr(task, name, value)
    return task


def finite(path) -> bool:
    return all(value.isfinite().all() for value in files.read_tensors(path)[0].values())


# Numbers that are not finite --------------------------------------------------------------------------------------


def test_fp16_stops_on_a_loss_that_is_not_a_number(tmp_path, fp16):
    with pytest.raises(
        TrainingError, match=r"The loss of tokenizer became nan .* at step 6, expected finite numbers"
    ):
        training.fit(spoilt(at=6), TINY, tmp_path, progress=False)
    assert finite(tmp_path / STATE)


def test_fp16_leaves_out_a_step_whose_gradients_overflow_and_halves_the_scale(tmp_path, fp16):
    training.fit(spoilt(at=6, what="gradient", factor=math.inf), TINY, tmp_path, progress=False)
    text = (tmp_path / "metrics.jsonl").read_text()
    entries = log_of(tmp_path)
    assert [entry["skipped"] for entry in entries] == [0, 0, 0, 0.5, 0, 0]  # two steps an entry
    start = LOSS_SCALE["init_scale"]
    assert [entry["loss_scale"] for entry in entries] == [start] * 3 + [start / 2] * 3
    assert "Infinity" not in text and "NaN" not in text
    assert finite(tmp_path / "tokenizer.safetensors")


def test_fp16_gives_up_where_no_scale_is_small_enough(tmp_path, fp16):
    class Overflowing(Spoilt):
        def loss(self, index, device):
            self.at = self.step  # every step
            return super().loss(index, device)

    torch.manual_seed(0)
    task = Overflowing(VQVAE(tokenizer_config()), blobs())
    task.what, task.factor = "gradient", math.inf
    with pytest.raises(TrainingError, match="expected finite numbers"):
        training.fit(task, dataclasses.replace(TINY, epochs=4), tmp_path, progress=False)


def test_the_scale_of_the_loss_is_saved_and_stays_in_its_limits(tmp_path, fp16, monkeypatch):
    monkeypatch.setitem(LOSS_SCALE, "growth_interval", 1)  # doubles at every step: 2^11 is 2^15 after four
    training.fit(spoilt(), TINY, tmp_path / "whole", progress=False)
    scales = [entry["loss_scale"] for entry in log_of(tmp_path / "whole")]
    assert scales[:2] == [2.0**13, 2.0**15] and max(scales) <= 4 * MAX_LOSS_SCALE
    broken = spoilt(at=6)
    with pytest.raises(TrainingError):
        training.fit(broken, TINY, tmp_path / "broken", progress=False)
    tensors, _ = files.read_tensors(tmp_path / "broken" / STATE)
    assert tensors["scaler"].tolist() == [2.0**15, 0]
    training.fit(spoilt(), TINY, tmp_path / "broken", progress=False)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("scaled", [False, True])
def test_a_discriminator_that_breaks_is_not_saved(tmp_path, scaled, request):
    if scaled:
        request.getfixturevalue("fp16")
    task = spoilt(GAN, at=6, what="discriminator")
    with pytest.raises(TrainingError, match=r"at step 6, expected finite numbers; the last good checkpoint"):
        training.fit(task, TINY, tmp_path, progress=False)
    assert finite(tmp_path / STATE)
    training.fit(spoilt(GAN), TINY, tmp_path, progress=False)
    training.fit(spoilt(GAN), TINY, tmp_path / "clean", progress=False)
    assert log_of(tmp_path) == log_of(tmp_path / "clean")


def test_on_a_gpu_numbers_are_looked_at_where_the_log_is_due_and_before_anything_is_saved(tmp_path, monkeypatch):
    looked = []
    original = Players.broke_at
    monkeypatch.setattr(Players, "broke_at", lambda self, step: looked.append(step) or original(self, step))
    original_check = loop.Run.check_finite

    def as_on_a_gpu(self, step, stats):
        self.ranks = dataclasses.replace(self.ranks, device=torch.device("cuda"))
        try:
            return original_check(self, step, stats)
        finally:
            self.ranks = dataclasses.replace(self.ranks, device=torch.device("cpu"))

    monkeypatch.setattr(loop.Run, "check_finite", as_on_a_gpu)
    monkeypatch.setattr(Players, "scaler", None, raising=False)
    config = dataclasses.replace(TINY, log_every=4)
    with pytest.raises(TrainingError, match="at step 5, expected finite numbers"):  # seen at the entry of step 8
        training.fit(spoilt(at=5), config, tmp_path, progress=False)
    assert looked == [3, 7]
    assert files.read_tensors(tmp_path / STATE)[1]["step"] == 4 and finite(tmp_path / STATE)


# The tokenizer's game ---------------------------------------------------------------------------------------------


def test_a_compiled_run_may_weigh_its_gan_adaptively(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses = []
    for name, compiled in (("plain", False), ("compiled", True)):
        torch.manual_seed(0)
        training.fit(task_of(), dataclasses.replace(TINY, compile=compiled), tmp_path / name, progress=False)
        losses.append([entry["loss"] for entry in log_of(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("quantizer", ["multi-scale", "single"])
def test_the_entropy_term_reaches_the_encoder(quantizer):
    torch.manual_seed(0)
    schedule = {"schedule": None} if quantizer == "single" else {}
    model = VQVAE(tokenizer_config(quantizer=quantizer, **schedule))
    only = LossConfig(l1=0, l2=0, perceptual=0, gan=0, entropy=1.0, entropy_temperature=1.0)
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    out = model(images)
    vectors = torch.cat(out.residuals)
    loss, _ = TokenizerLoss(only, 1, 10)(
        images, out.reconstruction, out.loss * 0, 0, vectors=vectors, codes=model.quantizer.codes
    )
    loss.backward()
    assert model.encoder.conv_in.weight.grad.abs().max() > 0


def test_accumulation_lets_the_discriminator_see_the_whole_batch(tmp_path):
    class Watched(TokenizerTask):
        seen = 0

        def discriminator_loss(self, discriminator):
            self.seen += len(self.images)
            return super().discriminator_loss(discriminator)

    for parts in (1, 4):
        torch.manual_seed(0)
        task = Watched(VQVAE(tokenizer_config()), blobs(), GAN, steps=12)
        training.fit(task, dataclasses.replace(TINY, accumulate=parts), tmp_path / str(parts), progress=False)
        assert task.seen == 12 * 16


def test_the_average_of_a_short_run_is_not_its_beginning():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(100.0)  # what an average that starts in full would remember
    averaged = training.AveragedWeights(model, 0.9999)
    expected = 100.0
    for step in range(50):
        model.weight.data.fill_(float(step % 3))
        averaged.update(step)
        decay = min(0.9999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 3)
    assert averaged.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert 0.5 < expected < 1.5
    late = training.AveragedWeights(model, 0.5)
    model.weight.data.fill_(4.0)
    late.update(1000)
    assert late.weights["weight"].item() == pytest.approx(0.5 * (49 % 3) + 0.5 * 4.0)


def test_a_single_grid_need_not_be_square():
    nets = dataclasses.replace(tokenizer_config().nets)
    tokenizer = VQVAE(tokenizer_config(image_size=(16, 64), quantizer="single", schedule=None, nets=nets)).eval()
    images = torch.rand(2, 1, 16, 64) * 2 - 1
    tokens = tokenizer.encode(images)
    assert tokens[0].shape == (2, 4 * 16)
    features = tokenizer.quantizer(tokenizer.features(images)).quantized
    torch.testing.assert_close(tokenizer.decode(tokens), tokenizer.decode_features(features).clamp(-1, 1))
    assert tokenizer.decode(tokens).shape == images.shape
    with pytest.raises(ValueError, match=r"Expected one \(B, 64\) tensor of tokens"):
        tokenizer.decode([tokens[0][:, :16]])


def test_the_loss_of_every_token_is_its_surprise():
    logits, tokens = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    expected = -logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(token_losses(logits, tokens), expected)


# Going on -----------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Raised in the middle of a run."""


def break_at(task: TokenizerTask, step: int) -> TokenizerTask:
    original = task.after_step

    def after_step(now):
        if now == step:
            raise Stop
        original(now)

    task.after_step = after_step
    return task


OTHER = {
    "accumulate": 2,
    "recompute": True,
    "log_every": 1,
    "checkpoint_every": 2,
    "validate_every": 1,
    "validate_images": 7,
}


def test_a_run_goes_on_with_other_settings_that_leave_its_mathematics_as_they_are(tmp_path):
    with pytest.raises(Stop):
        training.fit(break_at(spoilt(), 6), TINY, tmp_path / "broken", progress=False)
    training.fit(spoilt(), dataclasses.replace(TINY, **OTHER), tmp_path / "broken", progress=False)
    training.fit(spoilt(), TINY, tmp_path / "whole", progress=False)
    last = [log_of(tmp_path / name)[-1]["lr"] for name in ("broken", "whole")]
    assert last[0] == last[1]
    steps = [entry["step"] for entry in log_of(tmp_path / "broken")]
    assert steps == [2, 4, *range(5, 13)]
    weights = [files.read_tensors(tmp_path / name / "tokenizer.safetensors")[0] for name in ("broken", "whole")]
    for key, value in weights[1].items():
        if "usage" not in key:  # it averages over parts of batches
            torch.testing.assert_close(weights[0][key], value, rtol=0.05, atol=0.02, msg=key)


def test_a_state_that_was_written_with_those_settings_in_it_is_still_resumed(tmp_path):
    with pytest.raises(Stop):
        training.fit(break_at(spoilt(), 6), TINY, tmp_path, progress=False)
    tensors, header = files.read_tensors(tmp_path / STATE)
    header["run"]["train"] |= {"accumulate": 1, "log_every": 2, "compile": False}  # as older versions wrote it
    files.write_tensors(tmp_path / STATE, tensors, {key: header[key] for key in ("step", "run", "ranks")})
    assert training.fit(spoilt(), TINY, tmp_path, progress=False)["resumed_at"] == 4


def test_a_finished_run_without_its_state_is_finished(tmp_path):
    preset = tiny_preset(ema=0.5)
    tokenizer = training.train_tokenizer(preset, blobs(), tmp_path, progress=False)
    (tmp_path / STATE).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    again = training.train_tokenizer(preset, blobs(), tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in tokenizer.state_dict().items())


def test_a_finished_run_without_its_state_is_not_trained_over(tmp_path):
    training.train_tokenizer(tiny_preset(), blobs(), tmp_path, progress=False)
    (tmp_path / STATE).unlink()
    before = (tmp_path / "tokenizer.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"is not of this run \(train.seed: 0 there, 1 asked for\)"):
        training.train_tokenizer(tiny_preset(seed=1), blobs(), tmp_path, progress=False)
    assert (tmp_path / "tokenizer.safetensors").read_bytes() == before


def test_each_card_keeps_its_own_random_state(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda device="cuda": asked.append(device) or torch.zeros(16).byte()
    )
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda": asked.append(device))
    task = spoilt()
    run = loop.Run(task, TINY, tmp_path, {}, Ranks())
    card = Ranks(torch.device("cuda:1"))
    loop.save_state(run.state_path, run.parts, run.identity, 3, card)()
    assert loop.restore_state(run.state_path, run.parts, run.identity, card) == 3
    assert asked == [torch.device("cuda:1")] * 2


def test_training_goes_on_while_a_state_is_written_and_what_is_written_is_the_moment_it_was_asked_for(
    tmp_path, monkeypatch
):
    trained, task, seen = threading.Event(), spoilt(), []
    after_step = task.after_step
    task.after_step = lambda step: (after_step(step), trained.set() if step == 4 else None)

    def write_slowly(path, tensors, header):
        seen.append((header["step"], trained.wait(timeout=60)))
        files.write_tensors(path, tensors, header)
        if header["step"] == 4:
            path.rename(tmp_path / "slowly")

    monkeypatch.setattr(state, "write_tensors", write_slowly)
    training.fit(task, TINY, tmp_path / "run", progress=False)
    assert seen == [(4, True), (8, True), (12, True)]
    monkeypatch.undo()
    with pytest.raises(Stop):
        training.fit(break_at(spoilt(), 4), TINY, tmp_path / "at once", progress=False)
    (slowly, header), (at_once, expected) = map(
        files.read_tensors, (tmp_path / "slowly", tmp_path / "at once" / STATE)
    )
    assert header == expected and slowly.keys() == at_once.keys()
    assert all(torch.equal(value, at_once[key]) for key, value in slowly.items())


def test_a_state_that_cannot_be_written_ends_the_run_at_the_next_entry_of_the_log(tmp_path, monkeypatch):
    written = []

    def write(path, tensors, header):
        if header["step"] == 8:
            raise files.CheckpointError("Could not write it (disk full).")
        files.write_tensors(path, tensors, header)
        written.append(path.read_bytes())

    monkeypatch.setattr(state, "write_tensors", write)
    with pytest.raises(files.CheckpointError, match="disk full"):
        training.fit(spoilt(), TINY, tmp_path, progress=False)
    assert [entry["step"] for entry in log_of(tmp_path)] == [2, 4, 6, 8]
    assert [(tmp_path / STATE).read_bytes()] == written


# Signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_as_if_nothing_had_been(tmp_path, number):
    handler = signal.getsignal(number)
    task = spoilt()
    original = task.after_step

    def after_step(step):
        if step == 4:
            os.kill(os.getpid(), number)
        original(step)

    task.after_step = after_step
    with pytest.raises(Interrupted, match="was asked to stop, and was saved at step 6 of 12"):
        training.fit(task, TINY, tmp_path / "stopped", progress=False)
    assert signal.getsignal(number) is handler
    assert files.read_tensors(tmp_path / "stopped" / STATE)[1]["step"] == 6
    assert training.fit(spoilt(), TINY, tmp_path / "stopped", progress=False)["resumed_at"] == 6
    training.fit(spoilt(), TINY, tmp_path / "whole", progress=False)
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")


def test_the_command_says_by_its_exit_code_that_it_wants_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise Interrupted("tokenizer was asked to stop, and was saved at step 6 of 12.")

    monkeypatch.setattr(training, "train_tokenizer", interrupted)
    assert cli.main(["train", "--preset", "digits-smoke", "--out", str(tmp_path)]) == 75
    said = capsys.readouterr().err
    assert said == (
        "minivar: tokenizer was asked to stop, and was saved at step 6 of 12. The same command goes on from there.\n"
    )


# Devices ------------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"Cannot use the device 'mps': expected cpu, or a cuda device"):
        find_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"Cannot use the device 'cuda' \(.*\w.*\): expected cpu"):
            find_device("cuda")


# Precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [("float32", False, "highest"), ("tf32", True, "high"), ("bf16", True, "high")],
)
def test_float32_is_float32_and_tf32_has_to_be_asked_for(precision, convolutions, products):
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with tf32(torch.device("cuda"), precision):
        assert torch.backends.cudnn.allow_tf32 == convolutions
        assert torch.get_float32_matmul_precision() == products
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before
    with tf32(torch.device("cpu"), precision):
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


def test_a_precision_that_there_is_not_is_refused():
    assert dataclasses.replace(TINY, precision="tf32").precision == "tf32"
    with pytest.raises(TrainingError, match="precision must be 'float32', 'tf32', 'bf16' or 'fp16'; got 'half'"):
        dataclasses.replace(TINY, precision="half")


@pytest.fixture
def bf16(monkeypatch):
    """Runs on this CPU compute in bf16, as on a GPU, where the processor has the operations at all."""
    try:
        autocast(torch.device("cpu"), "bf16")
    except ValueError as error:
        pytest.skip(str(error))
    original = loop.Run.__init__

    def begin(self, *arguments):
        original(self, *arguments)
        self.precision = torch.bfloat16

    return lambda: monkeypatch.setattr(loop.Run, "__init__", begin)


@pytest.mark.parametrize("kind", ["tokenizer", "gan", "var"])
def test_sixteen_bits_learn_what_thirty_two_do_and_codes_are_compared_in_thirty_two(
    tmp_path, monkeypatch, bf16, kind
):
    compared, original = set(), MultiScaleQuantizer.nearest

    def nearest(self, z_NC, k=0):
        compared.add(z_NC.dtype)
        return original(self, z_NC, k)

    monkeypatch.setattr(MultiScaleQuantizer, "nearest", nearest)
    losses = {}
    for precision in ("float32", "bf16"):
        if precision == "bf16":
            bf16()
        if kind == "var":
            torch.manual_seed(0)
            model = VAR(var_config(label_dropout=0.0, drop_path=0.0, gamma_init=0.1))
            task = VARTask(model, wake(VQVAE(tokenizer_config())), blobs())
        else:
            task = spoilt(GAN if kind == "gan" else PIXEL_LOSS)
        out = tmp_path / precision
        training.fit(task, dataclasses.replace(TINY, epochs=1, log_every=1), out, progress=False)
        losses[precision] = [entry["loss"] for entry in log_of(out)]
    assert losses["bf16"] != losses["float32"]  # it was another arithmetic
    assert all(map(math.isfinite, losses["bf16"]))
    # From its start on, the adaptive weight of the GAN makes much of little: until then the losses must agree.
    before = GAN.gan_start_step if kind == "gan" else None
    assert losses["bf16"][:before] == pytest.approx(losses["float32"][:before], rel=0.05)
    assert compared == {torch.float32}


# Many images --------------------------------------------------------------------------------------------------------


def test_as_many_images_are_drawn_at_a_time_as_their_caches_have_room_for():
    d30, d36 = presets.get("var-d30").model, presets.get("var-d36-s").model
    # 2 halves of guidance x keys and values x blocks x tokens x width x bytes
    assert sampling.cache_bytes(d30, "bf16") == 2 * 2 * 30 * 680 * 1920 * 2
    assert sampling.cache_bytes(d36) == 2 * 2 * 36 * 2240 * 2304 * 4
    assert sampling.images_at_once(d30, "bf16") == 25
    assert sampling.images_at_once(d36) == 2
    assert sampling.images_at_once(var_config()) == 100
    gpt = presets.get("llamagen-3b-384").model
    assert sampling.cache_bytes(gpt, "bf16") == 2 * 2 * 24 * (1 + 576) * 3200 * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--evaluator", "a.npz", "--size", "-3"], "--size must be at least 1; got -3"),
        (["--evaluator", "a.npz", "--seed", "-1"], "--seed must be at least 0; got -1"),
        (["--evaluator", "a.npz", "--count", "0"], "--count must be at least 1; got 0"),
        (["--evaluator", "a.npz", "--count", "15"], "equally many of each of 10 classes"),
        (["--evaluator", "a.npz", "--classes", "3"], "--evaluator draws all classes into one file"),
        (["--evaluator", "a.png"], "expected one that ends in .npz"),
        (["--random-labels"], "--random-labels is for --evaluator; got it without"),
        (["--size", "64"], "--size is for --evaluator; got --size 64 without it"),
    ],
)
def test_what_cannot_be_drawn_for_the_evaluator_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_any_number_of_processes_draws_the_same_images(tmp_path):
    words, said = ["sample", "--evaluator", "samples.npz", "--count", "20", "--batch-size", "4"], tmp_path / "said"
    pictures = []
    for ranks in (1, 2):
        place = tmp_path / str(ranks)
        place.mkdir()
        if ranks == 1:
            assert processes.run(cli.main, words, said=said, cwd=place) == 0
        else:
            assert processes.run_ranks(ranks, cli.main, words, said=said, cwd=place) == [0] * ranks
        assert not (place / "samples.npz.parts").exists()
        with np.load(place / "samples.npz") as arrays:
            pictures.append(arrays["arr_0"])
    assert pictures[0].shape == (20, 28, 28, 3) and pictures[0].std() > 0
    assert (pictures[0] == pictures[1]).mean() > 0.99  # a near tie may fall the other way with other threads
