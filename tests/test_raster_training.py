"""The next-token model from training to the command line, beside the next-scale one."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tokenizer_config, var_config, wake
from test_cli import refused, run
from test_train import TINY, blobs, log_of

from minivar import checkpoints, cli, data, files, presets, sampling, training
from minivar.checkpoints import CheckpointError
from minivar.models import GPT, VAR, GPTConfig
from minivar.sampling import RasterSamplingConfig
from minivar.tokenizer import VQVAE
from minivar.training import GPTTask, Preset

SINGLE = {"quantizer": "single", "schedule": None}


def gpt_config(**other) -> GPTConfig:
    """Two blocks of width 32 over the 4 x 4 grid of ``tokenizer_config``."""
    small = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 5, "hidden": 64}
    return GPTConfig(**{**small, **other})


def raster_preset(style: str = "llama", **config) -> Preset:
    recipe = dataclasses.replace(TINY, **config)
    tokenizer, model = tokenizer_config(**SINGLE), gpt_config(style=style, dropout=0.05)
    return Preset("tiny-raster", "digits", 1, tokenizer, recipe, model, recipe, RasterSamplingConfig(temperature=0.9))


@pytest.fixture(scope="module")
def raster_run(tmp_path_factory):
    """A finished run on blobs: (folder, tokenizer, transformer)."""
    out, preset = tmp_path_factory.mktemp("run"), raster_preset(epochs=20)
    tokenizer = training.train_tokenizer(preset, blobs(), out, progress=False)
    return out, tokenizer, training.train_model(preset, tokenizer, blobs(), out, progress=False)


# Training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_every_token_given_those_before():
    tokenizer, model = wake(VQVAE(tokenizer_config(**SINGLE))), wake(GPT(gpt_config()))
    task = GPTTask(model, tokenizer, blobs())
    index = torch.arange(6)
    loss, stats = task.loss(index, torch.device("cpu"))
    images, labels = blobs().batch(index)
    tokens = tokenizer.encode(images)[0]
    per_token, hits = [], []
    for i in range(16):  # one prefix at a time, without teacher forcing
        logits = model(labels, tokens[:, :i])[:, -1]
        per_token.append(F.cross_entropy(logits, tokens[:, i], reduction="none"))
        hits.append(logits.gather(1, tokens[:, i, None])[:, 0] == logits.amax(1))
    expected, hits = torch.stack(per_token, dim=1), torch.stack(hits, dim=1).float()
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-4, atol=1e-5)
    assert 0 < hits.mean() < 1
    torch.testing.assert_close(stats["accuracy"], hits.mean())
    torch.testing.assert_close(stats["row_accuracies"], hits.view(6, 4, 4).mean((0, 2)))
    torch.testing.assert_close(stats["row_losses"], expected.view(6, 4, 4).mean((0, 2)), rtol=1e-4, atol=1e-5)


def test_the_task_freezes_the_tokenizer():
    tokenizer = VQVAE(tokenizer_config(**SINGLE))
    GPTTask(GPT(gpt_config()), tokenizer, blobs())
    assert not tokenizer.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_an_untrained_model_guesses_and_a_trained_one_does_not(raster_run):
    out, _, _ = raster_run
    entries = log_of(out, "gpt")
    assert entries[0]["loss"] == pytest.approx(math.log(16), abs=0.15)
    assert entries[-1]["loss"] < 0.6 * entries[0]["loss"]
    for entry in entries:
        assert entry["loss"] == pytest.approx(np.mean(entry["row_losses"]), rel=1e-4)
        assert entry["accuracy"] == pytest.approx(np.mean(entry["row_accuracies"]), rel=1e-4)
        assert len(entry["row_losses"]) == 4


@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_a_run_that_broke_off_ends_as_if_it_had_not(tmp_path, style):
    class Stop(Exception):
        pass

    preset, digits = raster_preset(style), blobs()
    tokenizer = wake(VQVAE(preset.tokenizer))
    original = GPTTask.after_step

    def breaking(task, step):
        if step == 6:  # between the checkpoints after steps 4 and 8
            raise Stop
        original(task, step)

    GPTTask.after_step = breaking
    try:
        with pytest.raises(Stop):
            training.train_model(preset, tokenizer, digits, tmp_path / "broken", progress=False)
    finally:
        GPTTask.after_step = original
    torch.manual_seed(99)
    resumed = training.train_model(preset, tokenizer, digits, tmp_path / "broken", progress=False)
    whole = training.train_model(preset, tokenizer, digits, tmp_path / "whole", progress=False)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_run_leaves_two_checkpoints_that_belong_together(raster_run):
    out, _, model = raster_run
    _, loaded, header = checkpoints.load_pair(out)
    assert header["preset"] == "tiny-raster"
    assert header["sampling"] == {"cfg": 1.0, "temperature": 0.9, "top_k": 0, "top_p": 1.0}
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_draw_calls_the_sampler_of_the_model(raster_run, tokenizer, model):
    _, single, gpt = raster_run
    labels = torch.arange(4)

    def seeded():
        return torch.Generator().manual_seed(7)

    drawn = sampling.generate(gpt, single, labels, seeded(), temperature=0.8)
    expected = sampling.sample_raster(gpt, single, labels, temperature=0.8, generator=seeded())
    assert torch.equal(drawn.images, expected.images)
    drawn = sampling.generate(model, tokenizer, labels, seeded(), cfg=2.0)
    assert torch.equal(drawn.tokens, sampling.sample(model, tokenizer, labels, cfg=2.0, generator=seeded()).tokens)


# Checkpoints ------------------------------------------------------------------------------------------------------


def test_half_precision_files_come_back_in_single_precision(tmp_path):
    model = wake(GPT(gpt_config()))
    checkpoints.save(model, tmp_path / "whole.safetensors")
    tensors, header = files.read_tensors(tmp_path / "whole.safetensors")
    half = {key: value.half() for key, value in tensors.items()}
    files.write_tensors(tmp_path / "half.safetensors", half, header)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    loaded, _ = checkpoints.load(tmp_path / "half.safetensors", "GPT")
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("tokenizer", "model", "words"),
    [
        (
            {},
            gpt_config(),
            r"\('multi-scale', \(4, 4\), 16\) in the tokenizer, .* expects \('single', \(4, 4\), 16\)",
        ),
        (SINGLE, gpt_config(grid=(5, 5)), r"\('single', \(4, 4\), 16\) in the tokenizer, .*\(5, 5\)"),
        (SINGLE, gpt_config(codebook_size=20), r"expects \('single', \(4, 4\), 20\)"),
        (SINGLE, var_config(), r"\('single', None, 16, 4\) in the tokenizer, .* expects \('multi-scale'"),
    ],
)
def test_a_pair_that_does_not_belong_together_is_refused(tokenizer, model, words):
    with pytest.raises(CheckpointError, match=words):
        checkpoints.check_pair(tokenizer_config(**tokenizer), model)


def test_a_transformer_without_a_grid_fits_any_tokenizer():
    checkpoints.check_pair(tokenizer_config(**SINGLE), gpt_config(grid=None))
    checkpoints.check_pair(tokenizer_config(**SINGLE, image_size=None), gpt_config())


def test_two_transformers_in_one_folder_are_refused(tmp_path):
    checkpoints.save(VQVAE(tokenizer_config(**SINGLE)), tmp_path / "tokenizer.safetensors")
    checkpoints.save(GPT(gpt_config()), tmp_path / "gpt.safetensors")
    checkpoints.save(VAR(var_config()), tmp_path / "var.safetensors")
    with pytest.raises(CheckpointError, match=r"holds var\.safetensors and gpt\.safetensors; expected one"):
        checkpoints.load_pair(tmp_path)


# Presets ----------------------------------------------------------------------------------------------------------


def test_the_duel_is_fair():
    duel = {name: presets.get(name) for name in ("duel-var", "duel-llamagen", "duel-gpt2")}
    counts = {}
    for name, preset in duel.items():
        checkpoints.check_pair(preset.tokenizer, preset.model)
        with torch.device("meta"):
            model = (GPT if isinstance(preset.model, GPTConfig) else VAR)(preset.model)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    assert all(abs(count - 1_000_000) <= 5_000 for count in counts.values()), counts
    first, *others = duel.values()
    for other in others:
        assert other.model_train == first.model_train
        assert other.tokenizer_train == first.tokenizer_train
        assert (other.dataset, other.views) == (first.dataset, first.views)
        assert other.tokenizer.nets == first.tokenizer.nets
        assert other.tokenizer.codebook_size == first.tokenizer.codebook_size
        assert other.tokenizer.latent_grid == first.tokenizer.latent_grid
    assert duel["duel-llamagen"].tokenizer == duel["duel-gpt2"].tokenizer


@pytest.mark.parametrize("size", ["b", "l", "xl", "xxl", "3b"])
@pytest.mark.parametrize(("pixels", "side"), [(256, 16), (384, 24)])
def test_llamagen_presets_are_the_published_recipes(size, pixels, side):
    preset = presets.get(f"llamagen-{size}-{pixels}")
    checkpoints.check_pair(preset.tokenizer, preset.model)
    assert preset.model.grid == (side, side)
    batch, lr = {"b": (256, 1e-4), "l": (256, 1e-4), "xl": (256, 2e-4), "xxl": (512, 2e-4), "3b": (512, 2e-4)}[size]
    assert preset.model_train.batch_size == batch
    for step in (0, 500, 999):  # constant
        assert training.learning_rate(step, 1000, preset.model_train) == pytest.approx(lr)
    epochs = 50 if pixels == 256 and size in ("xl", "xxl", "3b") else 300  # paper, table 8
    assert (preset.model_train.epochs, preset.model_train.clip, preset.model_train.weight_decay) == (
        epochs,
        1.0,
        0.05,
    )
    assert training.learning_rate(7, 1000, preset.tokenizer_train) == pytest.approx(1e-4)
    if size == "b" and pixels == 256:
        with torch.device("meta"):
            assert sum(p.numel() for p in VQVAE(preset.tokenizer).parameters()) == pytest.approx(71.88e6, rel=1e-3)


# Command line -----------------------------------------------------------------------------------------------------

QUICK = {
    "views": 1,
    "tokenizer.nets.base_channels": 8,
    "tokenizer_train.epochs": 0.08,
    "tokenizer_train.batch_size": 32,
    "model.width": 32,
    "model.hidden": 32,
    "model_train.epochs": 0.08,
    "model_train.batch_size": 32,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ``minivar train --preset duel-llamagen``, much shortened, leaves."""
    out = tmp_path_factory.mktemp("command") / "run"
    settings = [word for item in QUICK.items() for word in ("--set", "{}={}".format(*item))]
    assert cli.main(["train", "--preset", "duel-llamagen", "--out", str(out), *settings]) == 0
    return out


def test_train_and_sample_speak_raster(trained, capsys, tmp_path):
    capsys.readouterr()
    names = {path.name for path in trained.iterdir()}
    assert {"tokenizer.safetensors", "gpt.safetensors", "gpt.state.safetensors", "metrics.jsonl"} <= names
    options = ("--checkpoint", trained, "--classes", "3,7", "--count", 5, "--temperature", 0.7, "--cfg", 1.5)
    arrays = []
    for name in ("a", "b"):
        printed = run(capsys, "sample", *options, "--out", tmp_path / "x.png", "--npz", tmp_path / f"{name}.npz")
        assert "'temperature': 0.7" in printed
        with np.load(tmp_path / f"{name}.npz") as file:
            arrays.append(file["images"])
            assert file["labels"].tolist() == [3, 7, 3, 7, 3]
    assert arrays[0].shape == (5, 28, 28)
    assert np.array_equal(*arrays)
    assert 0 <= arrays[0].min() <= arrays[0].max() <= 1


def test_info_describes_raster_models(trained, capsys):
    capsys.readouterr()
    printed = run(capsys, "info", "--checkpoint", trained)
    assert "7 x 7 in raster order" in printed
    assert "llamagen-b-384" in run(capsys, "info", "--preset", "llamagen-b-384")


def test_info_counts_the_same_on_cpu_and_meta(capsys):
    folder = data.DATA_ROOT / "checkpoints" / "digits"
    lines = [
        run(capsys, "info", *what).splitlines()[1:] for what in (("--checkpoint", folder), ("--preset", "digits"))
    ]
    assert lines[0] == lines[1]


def test_options_of_the_other_kind_are_refused(trained, capsys, tmp_path):
    capsys.readouterr()
    out = ("--out", tmp_path / "x.png")
    assert "--smooth is not for GPT models" in refused(capsys, "sample", "--checkpoint", trained, "--smooth", *out)
    assert "--temperature is not for VAR models" in refused(capsys, "sample", "--temperature", 0.5, *out)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.num_classes=7", "the data has 10: add --set model.num_classes=10"),
        ("model.codebook_size=100", "expects ('single', (7, 7), 100)"),
        ("model.style=bert", "style must be 'llama', 'gpt2' or 'var'; got 'bert'"),
        ("model.width=30", "got width 30, heads 4"),
        ("tokenizer.quantizer=multi-scale", "A multi-scale tokenizer needs a schedule"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(capsys, tmp_path, setting, words):
    message = refused(capsys, "train", "--preset", "duel-llamagen", "--out", tmp_path / "run", "--set", setting)
    assert words in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings", [{"cfg": 0.5}, {"cfg": math.inf}, {"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_impossible_sampling_is_refused(settings):
    with pytest.raises(ValueError, match=r"cfg >= 1, temperature > 0, top_k >= 0 and top_p in \(0, 1\]; got"):
        sampling.sample_raster(GPT(gpt_config()), None, torch.zeros(1, dtype=torch.int64), **settings)


@pytest.mark.parametrize("labels", [[6], [-1], []])
def test_impossible_classes_are_refused(labels):
    with pytest.raises(ValueError, match="Labels must"):
        sampling.sample_raster(GPT(gpt_config()), None, torch.tensor(labels, dtype=torch.int64))


def test_captions_of_the_wrong_shape_are_refused():
    gpt = GPT(gpt_config(caption_tokens=3, caption_dim=6))
    with pytest.raises(ValueError, match=r"shape \(B, 3, 6\), B > 0; got \(1, 4, 6\)"):
        sampling.sample_raster(gpt, None, torch.zeros(1, 4, 6))


def test_results_of_the_scripts_are_whole():
    """Every combination that the chapters show is there, once."""
    folder = data.DATA_ROOT / "results"
    codes = json.loads((folder / "codes.json").read_text())["rows"]
    assert len({(row["dim"], row["size"], row["kind"], row["seed"]) for row in codes}) == len(codes) == 22
    runs = json.loads((folder / "head_to_head.json").read_text())["runs"]
    keys = {(row["model"], row["protocol"], row["seed"], row["guidance"]) for row in runs}
    assert len(keys) == len(runs)
    for model, protocols in (("var", ["images"]), ("llamagen", ["images", "time"]), ("gpt2", ["images", "time"])):
        for protocol in protocols:
            assert {seed for m, p, seed, _ in keys if (m, p) == (model, protocol)} >= {0, 1}
