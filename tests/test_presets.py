"""Presets against the papers, and the runs for one GPU rehearsed in miniature."""

import numpy as np
import pytest
import torch
from PIL import Image

from minivar import checkpoints, cli, data, models, presets, training

XL_AND_LARGER = ("xl", "xxl", "3b")
TINY = {
    "tokenizer_loss.perceptual": 0.0,
    "tokenizer_loss.discriminator.base_channels": 16,
    "tokenizer.nets.base_channels": 8,
    "tokenizer.nets.groups": 4,
    "tokenizer.nets.res_blocks": 1,
    "tokenizer.codebook_size": 64,
    "model.codebook_size": 64,
    "model.depth": 1,
    "model.width": 32,
    "model.heads": 2,
    **{
        f"{stage}.{field}": value
        for stage in ("tokenizer_train", "model_train")
        for field, value in (
            ("batch_size", 4),
            ("images_at_a_time", 2),
            ("epochs", 2),
            ("log_every", 1),
            ("checkpoint_every", 2),
            ("warmup", 0.0),
        )
    },
}


@pytest.mark.parametrize("size", ["b", "l", *XL_AND_LARGER])
def test_llamagens_are_trained_as_published(size):
    small, large = (presets.get(f"llamagen-{size}-{pixels}") for pixels in (256, 384))
    assert large.model_train.epochs == 300
    assert small.model_train.epochs == (50 if size in XL_AND_LARGER else 300)  # arXiv 2406.06525, table 8
    for preset in (small, large):
        tokenizer = preset.tokenizer_train
        assert (tokenizer.weight_decay, tokenizer.betas) == (0.0, (0.9, 0.95))  # Adam, in its code
        assert tokenizer.base_lr * tokenizer.batch_size / 256 == pytest.approx(1e-4)
        assert (preset.tokenizer_crop, preset.model_crop) == ("zoom", "ten")


@pytest.mark.parametrize("world", ["duel-", "duel-emoji-"])
def test_all_sides_of_a_duel_have_as_many_parameters_and_learn_alike(world):
    names = ("var", "var-prefix", "raster", "raster-prefix", "llamagen", "gpt2", "maskgit", "dit", "dit-pixels")
    sides = {name: presets.get(f"{world}{name}") for name in names}
    counts = {}
    for name, preset in sides.items():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in models.build(preset.model).parameters())
        first = sides["var"]
        for field in ("dataset", "views", "tokenizer_train", "model_train", "revive_below"):
            assert getattr(preset, field) == getattr(first, field), name
        assert preset.tokenizer.nets == first.tokenizer.nets
        assert preset.tokenizer.codebook_size == first.tokenizer.codebook_size
        if name != "dit-pixels":
            checkpoints.check_pair(preset.tokenizer, preset.model)
    assert max(counts.values()) < 1.006 * min(counts.values()), counts
    for of_var, of_raster in (("var", "raster"), ("var-prefix", "raster-prefix")):
        one, other = sides[of_var].model, sides[of_raster].model
        for field in ("depth", "width", "heads", "conditioning", "gamma_init", "drop_path", "num_classes"):
            assert getattr(one, field) == getattr(other, field) or (field == "gamma_init" and "prefix" in of_var)
    assert sides["var"].model.conditioning == "adaln" and sides["var-prefix"].model.conditioning == "prefix"


def finished(out, model: str) -> None:
    """A run that has left everything, and lost as much as it should."""
    for name in ("tokenizer", model):
        assert (out / f"{name}.safetensors").is_file()
    log = training.read_log(out / "metrics.jsonl")
    for phase in ("tokenizer", model):
        losses = [entry["loss"] for entry in log if entry["phase"] == phase]
        assert len(losses) == 4 and np.isfinite(losses).all()
    judged = [entry["discriminator_loss"] for entry in log if entry["phase"] == "tokenizer"]
    assert judged[0] == 0 < judged[-1]  # it began on the way


@pytest.mark.slow
def test_folder128_in_miniature(tmp_path):
    """From a folder of pictures by the command line, accumulated, to checkpoints that belong together."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 1)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (150, 170, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    settings = [f"{key}={value}" for key, value in {**TINY, "model.num_classes": 2}.items()]
    words = [word for setting in settings for word in ("--set", setting)]
    folders = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert cli.main(["train", "--preset", "folder128", *folders, *words]) == 0
    finished(tmp_path / "run", "var")
    tokenizer, model, header = checkpoints.load_pair(tmp_path / "run")
    assert header["preset"] == "folder128"
    assert tokenizer.config.latent_grid == (16, 16) == model.schedule.final_grid
    assert (tmp_path / "run" / "var.best.safetensors").is_file()


def test_cifar32_in_miniature(tmp_path):
    preset = presets.get("cifar32", TINY)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    images = data.ArraySet(pixels, torch.arange(8), [str(i) for i in range(10)])
    tokenizer = training.train_tokenizer(preset, images, tmp_path, progress=False, validation=images)
    training.train_model(preset, tokenizer, images, tmp_path, progress=False, validation=images)
    finished(tmp_path, "var")
