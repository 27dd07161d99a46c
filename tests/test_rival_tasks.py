"""How the rivals learn: what is hidden from MaskGIT, what a DiT is asked, and the way from a preset to images."""

import dataclasses
import math

import pytest
import torch
from conftest import Interrupted, tokenizer_config, wake
from test_train import TINY, blobs, log_of

from minivar import checkpoints, cli, evaluation, files, models, sampling, training
from minivar.data import ArraySet
from minivar.distributed import Ranks
from minivar.models import DiT, DiTConfig, GPTConfig, MaskGIT, MaskGITConfig
from minivar.models.noise import NoiseSchedule, diffusion_loss
from minivar.tokenizer import VQVAE, Pixels, TokenCache, encode, write_cache
from minivar.training import DiTTask, MaskGITTask, Preset

SHAPE = {"depth": 2, "width": 32, "heads": 2, "num_classes": 5}
SINGLE = tokenizer_config(quantizer="single", schedule=None)
MASKGIT = MaskGITConfig(grid=(4, 4), codebook_size=16, gamma_init=0.1, **SHAPE)
DIT = DiTConfig(channels=4, input_size=4, patch=1, **SHAPE)
PIXELS = DiTConfig(channels=1, input_size=16, patch=4, latents=False, **SHAPE)
RASTER = GPTConfig(grid=(4, 4), codebook_size=16, style="var", conditioning="adaln", dropout=0.0, **SHAPE)
SIDES = {"maskgit": (MASKGIT, SINGLE), "dit": (DIT, SINGLE), "pixels": (PIXELS, SINGLE), "raster": (RASTER, SINGLE)}
SIDES["dit of a pyramid"] = (DIT, tokenizer_config())


def preset_of(side: str, **differs) -> Preset:
    model, tokenizer = SIDES[side]
    settings = sampling.SETTINGS[type(model)]()
    if isinstance(model, DiTConfig):
        settings = dataclasses.replace(settings, steps=4)
    train = dataclasses.replace(TINY, **differs)
    return Preset("tiny", "digits", 1, tokenizer, train, model, train, settings)


def task_of(side: str, **options) -> MaskGITTask | DiTTask:
    config, tokenizer = SIDES[side]
    torch.manual_seed(0)
    model = wake(models.build(config))
    tokenizer = Pixels() if side == "pixels" else wake(VQVAE(tokenizer))
    task = training.stages.TASKS[type(model)](model, tokenizer, blobs(), **options)
    task.epoch = 0
    return task


# From a preset to images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_preset_is_trained_kept_and_drawn_from(tmp_path, side):
    preset, images = preset_of(side), blobs()
    tokenizer = training.train_tokenizer(preset, images, tmp_path, progress=False)
    model = training.train_model(preset, tokenizer, images, tmp_path, progress=False, validation=images)
    log = log_of(tmp_path, type(model).__name__.lower())
    losses = [entry["validation_loss"] for entry in log if "validation_loss" in entry]
    assert losses[-1] < losses[0]
    same_tokenizer, same, header = checkpoints.load_pair(tmp_path)
    assert type(same_tokenizer) is (Pixels if side == "pixels" else VQVAE) and type(same) is type(model)
    labels, settings = torch.tensor([0, 4, 2]), header["sampling"]
    drawn = [
        sampling.generate(each, tokens.eval(), labels, torch.Generator().manual_seed(3), **settings)
        for tokens, each in ((tokenizer, model.eval()), (same_tokenizer, same))
    ]
    assert torch.equal(drawn[0].images, drawn[1].images)
    assert drawn[0].images.shape == (3, 1, 16, 16) and 0 <= drawn[0].images.min() <= drawn[0].images.max() <= 1
    assert (tmp_path / f"{type(model).__name__.lower()}.png").is_file()


@pytest.mark.parametrize("side", ["maskgit", "dit", "pixels"])
def test_a_run_that_is_cut_off_goes_on_as_if_it_had_not_been(tmp_path, side):
    preset, images = preset_of(side), blobs()

    def run(folder, steps=None):
        tokenizer = training.train_tokenizer(preset, images, folder, progress=False)
        if steps:
            task = training.stages.TASKS[models.GENERATORS[type(preset.model)]]
            original = task.loss

            def loss(self, index, device):
                if self.step == steps:
                    raise Interrupted
                return original(self, index, device)

            task.loss = loss
            try:
                with pytest.raises(Interrupted):
                    training.train_model(preset, tokenizer, images, folder, progress=False)
            finally:
                task.loss = original
        return training.train_model(preset, tokenizer, images, folder, progress=False)

    whole, cut = run(tmp_path / "whole").state_dict(), run(tmp_path / "cut", 6).state_dict()
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)


def test_commands_draw_from_the_rivals_and_refuse_what_is_not_for_them(tmp_path, capsys):
    preset, images = preset_of("maskgit"), blobs()
    tokenizer = training.train_tokenizer(preset, images, tmp_path, progress=False)
    training.train_model(preset, tokenizer, images, tmp_path, progress=False)
    where = ["sample", "--checkpoint", str(tmp_path), "--count", "5", "--out", str(tmp_path / "grid.png")]
    assert cli.main([*where, "--steps", "3", "--choice-temperature", "1"]) == 0
    assert "'steps': 3, 'cfg': 1.0, 'choice_temperature': 1.0" in capsys.readouterr().out
    assert cli.main([*where, "--temperature", "1"]) != 0
    assert "--temperature is not for MaskGIT models; got one in" in capsys.readouterr().err
    assert cli.main([*where, "--scales", "2"]) != 0
    assert "can only draw with a VAR model and without --smooth; got a MaskGIT in" in capsys.readouterr().err


# MaskGIT ----------------------------------------------------------------------------------------------------------


def test_as_many_tokens_are_hidden_as_the_cosine_says_and_at_least_one():
    task, tokens = task_of("maskgit"), torch.zeros(6, 16, dtype=torch.int64)
    progress = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.99, 1 - 1e-6])
    hidden = task.hide(tokens, progress, torch.rand(6, 16))
    expected = [max(1, math.ceil(16 * math.cos(math.pi / 2 * p))) for p in progress.tolist()]
    assert hidden.sum(1).tolist() == expected and expected[0] == 16 and expected[-1] == 1
    again = task.hide(tokens, progress, torch.rand(6, 16))
    assert not torch.equal(hidden, again)  # other places
    drawn = [task.hide(tokens[:1], progress[2:3], torch.rand(1, 16))[0] for _ in range(400)]
    often = torch.stack(drawn).float().mean(0)
    assert (often - expected[2] / 16).abs().max() < 0.1  # every place alike


def test_only_hidden_tokens_count_and_the_others_are_seen():
    task = task_of("maskgit")
    index = torch.arange(8)
    tokens, labels = task.encoded.batch(index, 0)
    assert torch.equal(tokens, encode(task.tokenizer, task.data.batch(index)[0]))
    hidden = task.hide(tokens, torch.rand(8), torch.rand(8, 16))
    loss, stats = task.predict(task.model, tokens, labels, hidden, 0.1)
    logits = task.model(labels, torch.where(hidden, task.model.mask_code, tokens)).double().log_softmax(-1)
    own = logits.gather(-1, tokens[..., None])[..., 0]
    mean_hidden = sum(math.ceil(16 * math.cos(math.pi / 2 * i / 10_000)) for i in range(10_001)) / 10_001 / 16
    assert 2 / math.pi < mean_hidden < 2 / math.pi + 1 / 16
    expected = -(0.9 * own + 0.1 * logits.mean(-1))[hidden].sum() / (8 * 16 * mean_hidden)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    hits = (logits.argmax(-1) == tokens)[hidden].double().sum() / (8 * 16 * mean_hidden)
    torch.testing.assert_close(stats["accuracy"].double(), hits, rtol=1e-5, atol=1e-6)


# DiT --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["dit", "dit of a pyramid"])
def test_what_a_dit_learns_from_has_mean_0_and_deviation_1(side):
    task = task_of(side)
    latents, _ = task.encoded.batch(torch.arange(96), 0)
    assert latents.shape == (96, 4, 4, 4)
    images = task.data.batch(torch.arange(96))[0]
    torch.testing.assert_close(latents, task.tokenizer.latents(images))
    x0 = (latents - task.model.mean_C11) / task.model.deviation_C11
    deviation, mean = torch.std_mean(x0, dim=(0, 2, 3))
    assert mean.abs().max() < 1e-4 and (deviation - 1).abs().max() < 1e-3
    assert set(task.model.state_dict()) >= {"mean_C11", "deviation_C11"}
    tokens = torch.cat(task.tokenizer.quantizer.encode(latents), dim=1)
    assert torch.equal(tokens, encode(task.tokenizer, images))
    decoded = task.tokenizer.decode_latents(latents)
    torch.testing.assert_close(decoded, task.tokenizer.decode(task.tokenizer.encode(images)))


def test_pixels_are_taken_as_they_are():
    task = task_of("pixels")
    images, labels = task.data.batch(torch.arange(4))
    latents, same = task.encoded.batch(torch.arange(4), 0)
    assert torch.equal(latents, images) and torch.equal(labels, same)
    assert not task.model.mean_C11.any() and (task.model.deviation_C11 == 1).all()
    assert torch.equal(task.tokenizer.decode_latents(2 * images), (2 * images).clamp(-1, 1))


@pytest.mark.parametrize("side", ["dit", "pixels"])
def test_the_loss_is_both_terms_at_the_steps_that_were_drawn(side):
    task = task_of(side)
    latents, labels = task.encoded.batch(torch.arange(6), 0)
    noise, t = torch.randn(latents.shape), torch.tensor([0, 1, 100, 500, 900, 999])
    loss, stats = task.predict(task.model, latents, labels, t, noise)
    x0, schedule = (latents - task.model.mean_C11) / task.model.deviation_C11, NoiseSchedule()
    x_t = schedule.mix(x0, noise, t)
    squared, variational = diffusion_loss(task.model(x_t, t, labels), x0, x_t, noise, t, schedule)
    torch.testing.assert_close(loss, squared.mean() + variational.mean())
    torch.testing.assert_close(stats["squared_error"], squared.mean())
    seen = []
    task.predict = lambda model, latents, labels, t, noise: seen.append((t, noise)) or (loss, {})
    for seed in range(40):
        torch.manual_seed(seed)
        task.loss(torch.arange(6), torch.device("cpu"))
    steps, noises = torch.stack([t for t, _ in seen]), torch.stack([noise for _, noise in seen])
    assert 0 <= steps.min() < 60 and 940 < steps.max() <= 999
    assert abs(noises.mean()) < 0.05 and abs(noises.std() - 1) < 0.05


@pytest.mark.parametrize("side", ["maskgit", "dit", "pixels"])
def test_the_heldout_loss_does_not_depend_on_chance(side):
    task = task_of(side, validation=blobs(40))
    index, cpu = torch.arange(8, 24), torch.device("cpu")
    first = task.heldout_loss(index, cpu)
    torch.manual_seed(99)
    assert {key: value.item() for key, value in first.items()} == {
        key: value.item() for key, value in task.heldout_loss(index, cpu).items()
    }
    assert task.heldout_loss(torch.arange(24, 40), cpu)["loss"] != first["loss"]


@pytest.mark.parametrize("side", ["maskgit", "dit", "pixels"])
def test_it_does_not_matter_how_held_out_images_are_shared_out(side):
    task, cpu = task_of(side, validation=blobs(40)), torch.device("cpu")
    whole = task.heldout_loss(torch.arange(40), cpu)
    parts = [torch.arange(0, 40, 2), torch.arange(1, 20, 2), torch.arange(21, 40, 2)]
    for key, value in whole.items():
        mean = sum(task.heldout_loss(part, cpu)[key] * len(part) for part in parts) / 40
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6)


def test_nor_does_it_matter_to_maskgits_loss_how_a_batch_is_cut():
    task = task_of("maskgit")
    tokens, labels = task.encoded.batch(torch.arange(12), 0)
    hidden = task.hide(tokens, torch.linspace(0, 1, 12), torch.rand(12, 16))
    whole, _ = task.predict(task.model, tokens, labels, hidden, 0.1)
    parts = [task.predict(task.model, *(x[i : i + 4] for x in (tokens, labels, hidden)), 0.1)[0] for i in (0, 4, 8)]
    torch.testing.assert_close(sum(parts) / 3, whole, rtol=1e-4, atol=1e-6)


def test_the_heldout_steps_are_spread_evenly_and_nothing_is_smoothed():
    task, seen = task_of("dit", validation=blobs(40)), []
    task.predict = lambda *given: seen.append(given) or (torch.zeros(()), {})
    task.heldout_loss(torch.arange(40), torch.device("cpu"))
    steps = seen[0][3].sort().values
    gaps = torch.cat([steps[:1], steps.diff(), 1000 - steps[-1:]])
    assert gaps.max() <= 2.7 * 1000 / 40 and gaps[1:-1].min() >= 5  # of the golden ratio; chance leaves gaps of 100
    task, seen = task_of("maskgit", validation=blobs(40)), []
    task.predict = lambda *given: seen.append(given) or (torch.zeros(()), {})
    task.heldout_loss(torch.arange(40), torch.device("cpu"))
    hidden, smoothing = seen[0][3:]
    counts = sorted(hidden.sum(1).tolist())
    assert smoothing == 0 and counts[0] <= 2 and counts[-1] == 16
    assert sum(counts) / 40 == pytest.approx(16 * task.mean_hidden, abs=0.5)


# What does not go together ------------------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="A MaskGITConfig is sampled by a MaskedSamplingConfig; got a Samp"):
        dataclasses.replace(preset_of("maskgit"), sampling=sampling.SamplingConfig())
    with pytest.raises(checkpoints.CheckpointError, match=r"\(C, grid\) is \(4, \(4, 4\)\) in the tokenizer"):
        checkpoints.check_pair(SINGLE, PIXELS)
    with pytest.raises(checkpoints.CheckpointError, match="do not belong together"):
        checkpoints.check_pair(tokenizer_config(), MASKGIT)
    with pytest.raises(ValueError, match="tiny draws pixels: expected neither --tokenizer nor --tokens, got one"):
        training.take_tokenizer(tmp_path, tmp_path, preset_of("pixels"), blobs(), None)


def test_what_would_fail_after_hours_is_refused_before(tmp_path):
    ranks, images = Ranks(), blobs()
    with pytest.raises(ValueError, match="tiny draws pixels and has no tokenizer to train: expected --stage all"):
        training.check_run(preset_of("pixels"), images, "tokenizer", ranks)
    training.check_run(preset_of("dit"), images, "tokenizer", ranks)
    fewer = ArraySet(images.images, images.labels.clamp_max(2), list("abc"))
    with pytest.raises(ValueError, match="must be called as the others are: expected 5 classes, got 3"):
        training.check_run(preset_of("maskgit"), images, "all", ranks, fewer)
    training.check_run(preset_of("maskgit"), images, "all", ranks, images)
    write_cache(wake(VQVAE(SINGLE)), images, tmp_path, progress=False)
    for given in ((TokenCache(tmp_path), None), (images, TokenCache(tmp_path))):
        with pytest.raises(ValueError, match="A DiT learns from images: expected neither --tokens nor --validation"):
            training.check_run(preset_of("dit"), given[0], "all", ranks, given[1])


def test_images_come_from_what_is_drawn_and_the_fingerprint_knows_its_measures(tmp_path):
    dit = task_of("pixels").model
    labels, generator = torch.tensor([0, 3]), torch.Generator().manual_seed(1)
    dit.mean_C11.fill_(0.2)
    dit.deviation_C11.fill_(0.01)
    options = {"steps": 3, "cfg": 1.0, "method": "ddim"}
    drawn = sampling.generate(dit, Pixels(), labels, generator, **options).images
    noise = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    pictures = sampling.sample_diffusion(dit, labels, noise, **options)
    torch.testing.assert_close(drawn, ((pictures * 0.01 + 0.2).clamp(-1, 1) + 1) / 2)
    before = files.weights_fingerprint(dit)
    dit.mean_C11.fill_(0.25)
    assert files.weights_fingerprint(dit) != before
    evaluation.write_samples(Pixels(), dit, tmp_path / "samples.npz", count=10, batch=5, progress=False, **options)
    assert evaluation.open_samples(tmp_path / "samples.npz").shape == (10, 16, 16, 3)


def test_cached_tokens_hold_no_latents(tmp_path):
    tokenizer = wake(VQVAE(SINGLE))
    write_cache(tokenizer, blobs(), tmp_path, progress=False)
    with pytest.raises(
        training.TrainingError, match="learns from images: expected a dataset of them, got cached tokens"
    ):
        DiTTask(DiT(DIT), tokenizer, TokenCache(tmp_path))
    cached = MaskGITTask(MaskGIT(MASKGIT), tokenizer, TokenCache(tmp_path))
    index = torch.arange(5)
    assert torch.equal(cached.encoded.batch(index, 0)[0], encode(tokenizer, blobs().batch(index)[0]))


def test_two_transformers_in_one_folder_are_one_too_many(tmp_path):
    checkpoints.save(DiT(DIT), tmp_path / "dit.safetensors")
    checkpoints.save(MaskGIT(MASKGIT), tmp_path / "maskgit.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="holds maskgit.safetensors and dit.safetensors; expect"):
        checkpoints.load_pair(tmp_path)


def test_plans_are_for_var_and_gpt(capsys):
    assert cli.main(["plan", "--preset", "duel-maskgit", "--gpus", "1"]) != 0
    assert "Plans are for VAR and GPT: expected a preset of one of them, got duel-maskgit with a MaskGITConfig" in (
        capsys.readouterr().err
    )
