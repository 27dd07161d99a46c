"""Fine-tuning: a run that starts from a trained pair, its own or a published one."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image
from test_train import log_of

from minivar import checkpoints, cli, files
from minivar.models import VAR
from minivar.scales import VAR_256, ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig
from minivar.training import starting_weights

SETTINGS = ["model_train.batch_size=8", "model_train.epochs=1", "model_train.log_every=1"]
SETTINGS += ["model_train.checkpoint_every=2", "model.drop_path=0.0"]
COLOUR = dataclasses.replace(tokenizer_config().nets, image_channels=3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 16 pictures in two classes."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.RandomState(0)
    for name in ("cats", "dogs"):
        (root / name).mkdir()
        for i in range(8):
            Image.fromarray(random.randint(0, 255, (20, 20, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def pair():
    """A tokenizer and a transformer of five classes."""
    return wake(VQVAE(tokenizer_config(nets=COLOUR))), wake(VAR(var_config()), seed=1)


@pytest.fixture
def own(tmp_path):
    """A folder with that pair, as minivar's training writes it."""
    tokenizer, model = pair()
    checkpoints.save(tokenizer, tmp_path / "own" / "tokenizer.safetensors", preset="folder-smoke")
    checkpoints.save(model, tmp_path / "own" / "var.safetensors", preset="folder-smoke")
    return tmp_path / "own"


def train(start, data, out, *more) -> int:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    return cli.main(["train", "--init", str(start), "--data", str(data), "--out", str(out), *words, *more])


def test_a_new_table_of_classes_keeps_the_class_that_stands_for_none():
    _, model = pair()
    state = starting_weights(model, 2, seed=0)
    assert state["class_embed.weight"].shape == (3, 32)
    assert torch.equal(state["class_embed.weight"][-1], model.class_embed.weight[-1])
    assert all(
        torch.equal(state[key], value) for key, value in model.state_dict().items() if "class_embed" not in key
    )
    assert torch.equal(starting_weights(model, 5, seed=0)["class_embed.weight"], model.class_embed.weight)
    assert not torch.equal(starting_weights(model, 2, seed=1)["class_embed.weight"], state["class_embed.weight"])


def test_a_run_starts_from_the_weights_it_is_given(own, pictures, tmp_path):
    assert train(own, pictures, tmp_path / "run", "--set", "model_train.base_lr=1e-12") == 0
    tokenizer, model, header = checkpoints.load_pair(tmp_path / "run")
    before_tokenizer, before, _ = checkpoints.load_pair(own)
    assert files.weights_fingerprint(tokenizer) == files.weights_fingerprint(before_tokenizer)
    assert model.config.num_classes == 2
    for key, value in before.state_dict().items():
        if "class_embed" not in key:
            torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert header["preset"] == "folder-smoke"
    assert [entry["step"] for entry in log_of(tmp_path / "run")] == [1, 2]


def published(folder, schedule=VAR_256):
    """A small random pair in the published layout."""
    folder.mkdir()
    nets = NetConfig(base_channels=32, multipliers=(1, 1, 1, 1, 1), res_blocks=1)
    torch.manual_seed(0)
    size = 16 * schedule.final_grid[0]
    tokenizer = VQVAE(TokenizerConfig(image_size=size, nets=nets, codebook_size=16, code_dim=4, schedule=schedule))
    vae_state, var_state = checkpoints.to_var(tokenizer, VAR(var_config(schedule=schedule)))
    torch.save(vae_state, folder / "vae_small.pth")
    torch.save(var_state, folder / "var_d2.pth")
    return folder


def test_a_published_pair_is_a_start_like_any_other(pictures, tmp_path):
    more = ["--preset", "folder-smoke"]
    assert train(published(tmp_path / "var-d2"), pictures, tmp_path / "run", *more) == 0
    tokenizer, model, _ = checkpoints.load_pair(tmp_path / "run")
    assert model.schedule == tokenizer.schedule == VAR_256
    assert model.config.num_classes == 2


def test_a_pair_that_has_no_published_schedule_is_not_guessed_at(pictures, tmp_path, capsys):
    assert train(published(tmp_path / "var-d2", ScaleSchedule((1, 2))), pictures, tmp_path / "run") == 2
    assert "has 5 tokens, expected those of a published schedule" in capsys.readouterr().err


def test_a_shape_that_no_preset_has_needs_one_by_name(pictures, tmp_path, capsys):
    assert train(published(tmp_path / "var-d2"), pictures, tmp_path / "run") == 2
    assert "No preset has a transformer of depth 2 and width 32: expected --preset" in capsys.readouterr().err


def test_the_start_is_a_part_of_what_a_run_is(own, pictures, tmp_path, capsys):
    assert train(own, pictures, tmp_path / "run") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert train(own, pictures, tmp_path / "run") == 0  # the same command has nothing to do
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    other = wake(VAR(var_config()), seed=2)
    checkpoints.save(other, own / "var.safetensors", preset="folder-smoke")
    assert train(own, pictures, tmp_path / "run") == 2
    assert "belongs to a run with another configuration (loss.start:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lambda folder: shutil.rmtree(folder), [], "holds nothing to start from: expected minivar's tokenizer"),
        (lambda folder: (folder / "var.safetensors").unlink(), [], "var.safetensors"),
        (None, ["--stage", "tokenizer"], "--stage tokenizer learns from pixels"),
        (None, ["--tokenizer", "elsewhere"], "--init brings its tokenizer along"),
    ],
)
def test_what_cannot_be_started_from_is_refused_in_a_sentence(own, pictures, tmp_path, capsys, spoil, more, words):
    if spoil:
        spoil(own)
    assert train(own, pictures, tmp_path / "run", *more) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "run" / "var.safetensors").exists()
