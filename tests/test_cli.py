"""The command line: what it prints, what it writes, and how it says no."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image

from minivar import checkpoints, cli, precision, presets, sampling, training
from minivar.cli.sample import parse_classes
from minivar.cli.shared import SHIPPED, output
from minivar.models import VAR
from minivar.precision import autocast
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig
from minivar.tokenizer.caches import TokenCache

COMMANDS = ("train", "tokenize", "sample", "edit", "reconstruct", "evaluate", "info", "complexity", "plan", "report")
COMMANDS += ("serve", "push")
NETS = dataclasses.replace(conftest.NETS, patch=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with an untrained tokenizer and transformer for 28 x 28 grey images of ten classes."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = wake(VQVAE(tokenizer_config(image_size=28, nets=NETS)))
    checkpoints.save(tokenizer, folder / "tokenizer.safetensors")
    sampling = {"cfg": 2.0, "top_k": 12, "top_p": 0.9}
    model = wake(VAR(var_config(num_classes=10)))
    checkpoints.save(model, folder / "var.safetensors", preset="tiny", sampling=sampling)
    return folder


def run(capsys, *argv: object) -> str:
    """What a command that succeeds prints."""
    assert cli.main([str(word) for word in argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def run_quietly(capsys, *argv: object) -> str:
    """What a command that succeeds prints, but for its progress bar."""
    assert cli.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def refused(capsys, *argv: object) -> str:
    """What a command that fails prints: one line on standard error."""
    assert cli.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minivar: ")
    assert captured.err.count("\n") == 1
    return captured.err


# Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_each_of_its_options(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: minivar {command} [-h]")
    parser = cli.build_parser()._subparsers._group_actions[0].choices[command]
    assert parser.description
    for action in parser._actions:
        assert action.help, f"{command} {action.option_strings} has no help"


def test_the_overview_names_every_command_and_a_first_step(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command}\s+[A-Z]", text, flags=re.MULTILINE)
    assert "Start with: minivar sample" in text


def test_the_module_can_be_run():
    command = [sys.executable, "-m", "minivar.cli", "sample", "--checkpoint", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("minivar: No checkpoint directory at nowhere")
    assert done.stderr.count("\n") == 1


# info -------------------------------------------------------------------------------------------------------------


def figures(text: str) -> dict[str, str]:
    return {line[2:36].strip(): line[36:] for line in text.splitlines() if line.startswith("  ")}


def test_info_of_the_published_model_gives_the_published_numbers(capsys):
    shown = figures(run(capsys, "info", "--preset", "var-d16"))
    assert shown["transformer parameters"].startswith("310,28")
    assert shown["tokenizer parameters"].startswith("108,948,")
    assert shown["schedule"] == "1, 2, 3, 4, 5, 6, 8, 10, 13, 16"
    assert shown["tokens"] == "680"
    assert shown["image"] == "3 x 256 x 256"
    assert shown["codebook"] == "4096 codes of 32 dimensions"


def test_info_counts_the_floating_point_operations_of_the_matrices(capsys):
    shown = figures(run(capsys, "info", "--preset", "var-d16"))
    depth, width, tokens, codes, code_dim = 16, 1024, 680, 4096, 32
    attention = 2 * tokens * width * 4 * width + 2 * 2 * tokens * tokens * width
    mlp = 2 * tokens * width * 8 * width
    adaln = 2 * width * 6 * width
    ends = 2 * (tokens - 1) * code_dim * width + 2 * width * 2 * width + 2 * tokens * width * codes
    expected = depth * (attention + mlp + adaln) + ends
    assert int(shown["FLOPs of one teacher-forced pass"].replace(",", "")) == pytest.approx(expected, rel=0.002)


def test_info_of_a_checkpoint_describes_what_is_in_it(capsys, pair):
    text = run(capsys, "info", "--checkpoint", pair)
    assert text.startswith(f"{pair} (preset tiny)\n")
    shown = figures(text)
    tokenizer, model, _ = checkpoints.load_pair(pair)
    assert shown["tokenizer parameters"] == f"{sum(p.numel() for p in tokenizer.parameters()):,}"
    assert shown["transformer parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert shown["schedule"] == "1, 2, 4"
    assert all(int(shown[key].replace(",", "")) > 0 for key in shown if key.startswith("FLOPs"))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_can_be_described(name, capsys):
    assert run(capsys, "info", "--preset", name).startswith(f"preset {name}\n")


# sample -----------------------------------------------------------------------------------------------------------


def drawn(capsys, pair, folder, *options) -> dict[str, np.ndarray]:
    run(capsys, "sample", "--checkpoint", pair, "--out", folder / "grid.png", "--npz", folder / "s.npz", *options)
    with np.load(folder / "s.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_sample_writes_a_grid_and_arrays(capsys, pair, tmp_path):
    arrays = drawn(capsys, pair, tmp_path / "new" / "folder", "--classes", "1,4-6", "--count", 9, "--seed", 1)
    assert arrays.keys() == {"images", "labels"}
    assert arrays["images"].shape == (9, 28, 28)
    assert arrays["images"].dtype == np.float32
    assert arrays["images"].min() >= 0
    assert arrays["images"].max() <= 1
    assert arrays["labels"].tolist() == [1, 4, 5, 6, 1, 4, 5, 6, 1]  # in rotation
    with Image.open(tmp_path / "new" / "folder" / "grid.png") as grid:
        assert grid.size == (4 * 29 + 1, 3 * 29 + 1)  # a column a class, one pixel between
        corner = np.asarray(grid.convert("L"))[1:29, 1:29] / 255
    assert np.abs(corner - arrays["images"][0]).max() < 0.005


def test_sample_uses_the_settings_in_the_checkpoint_unless_told_otherwise(capsys, pair, tmp_path):
    text = run(capsys, "sample", "--checkpoint", pair, "--count", 3, "--out", tmp_path / "a.png")
    assert "{'cfg': 2.0, 'top_k': 12, 'top_p': 0.9}" in text
    options = ("--cfg", 0, "--top-k", 0, "--top-p", 0)
    text = run(capsys, "sample", "--checkpoint", pair, "--count", 3, "--out", tmp_path / "a.png", *options)
    assert "{'cfg': 0.0, 'top_k': 0, 'top_p': 0.0}" in text


def test_the_seed_determines_the_images(capsys, pair, tmp_path):
    options = ("--classes", "0-9", "--count", 12)
    one, again, other = (drawn(capsys, pair, tmp_path, *options, "--seed", seed)["images"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_more_images_than_one_batch_holds_are_all_drawn(capsys, pair, tmp_path):
    arrays = drawn(capsys, pair, tmp_path, "--count", 105, "--seed", 3)
    assert len(arrays["images"]) == len(arrays["labels"]) == 105
    assert arrays["labels"][:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    tokenizer, model, header = checkpoints.load_pair(pair)
    tokenizer, model = sampling.packed(tokenizer), sampling.packed(model)
    generator, labels = torch.Generator().manual_seed(3), torch.arange(105) % 10
    first, rest = (
        sampling.sample(model, tokenizer, part, generator=generator, **header["sampling"]).images.squeeze(1).numpy()
        for part in labels.split(100)
    )
    assert np.array_equal(arrays["images"], np.concatenate([first, rest]))  # a hundred at a time, unless told
    again = drawn(capsys, pair, tmp_path, "--count", 105, "--seed", 3, "--batch-size", 100)["images"]
    other = drawn(capsys, pair, tmp_path, "--count", 105, "--seed", 3, "--batch-size", 10)["images"]
    assert np.array_equal(arrays["images"], again)
    assert other.shape == again.shape and not np.array_equal(other, again)


@pytest.mark.parametrize(
    ("options", "economy"),
    [
        (("--guided-scales", 1), {"guided_scales": 1}),
        (("--scales", 2, "--guided-scales", 2), {"scales": 2, "guided_scales": 2}),
        (("--kept-tokens", 0.25), {"kept_tokens": 0.25}),
        (("--sub-steps", 2), {"sub_steps": 2}),
        (("--refined-from", 1, "--refiner"), {"refined_from": 1}),
        (("--int8",), {}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_sample_leaves_out_what_it_is_told_to(capsys, pair, tmp_path, options, economy):
    folder = (pair,) if "--refiner" in options else ()
    found = drawn(capsys, pair, tmp_path, "--count", 4, "--seed", 1, *options, *folder)["images"]
    tokenizer, model, header = checkpoints.load_pair(pair)
    settings = {**header["sampling"], "generator": torch.Generator().manual_seed(1)}
    eight = "--int8" in options
    expected = sampling.sample_economically(
        sampling.eight_bits(model) if eight else sampling.packed(model),
        sampling.packed(tokenizer),
        torch.arange(4),
        sampling.Economy(**economy),
        sampling.packed(model) if folder else None,
        **settings,
    )
    assert np.array_equal(found, expected.images.squeeze(1).numpy())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scales", 4), "scales must be at most the model's 3 scales; got 4"),
        (("--refined-from", 1), "refined_from and a model that refines belong together"),
        (("--kept-tokens", 0.5, "--sub-steps", 2), "either drawn in parts or in part"),
        (("--int8", "--smooth"), "--int8 can only draw with a VAR model and without --smooth; got --smooth"),
        (("--int8", "--precision", "bf16"), "--int8 is for a CPU and --precision float32; got cpu and bf16"),
        (("--sub-steps", 2, "--evaluator", "x.npz"), "--evaluator draws with all the arithmetic there is"),
    ],
    ids=lambda value: "",
)
def test_economies_that_do_not_go_together_are_refused(capsys, pair, options, said):
    assert said in refused(capsys, "sample", "--checkpoint", pair, *options)


@pytest.mark.parametrize(
    ("numbers", "expected"), [("float32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_samples_are_drawn_in_the_precision_that_is_asked_for(capsys, pair, tmp_path, monkeypatch, numbers, expected):
    generate, seen = sampling.generate, []

    def watched(*args, **settings):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return generate(*args, **settings)

    monkeypatch.setattr(sampling, "generate", watched)
    try:
        autocast(torch.device("cpu"), numbers)
    except ValueError:
        pytest.skip(f"this processor does not compute in {numbers}")
    arrays = drawn(capsys, pair, tmp_path, "--count", 4, "--precision", numbers)
    assert seen == [expected]
    assert arrays["images"].dtype == np.float32 and 0 <= arrays["images"].min() <= arrays["images"].max() <= 1


def test_a_precision_that_the_device_does_not_have_is_refused(capsys, pair, tmp_path, monkeypatch):
    options = ("--checkpoint", pair, "--count", 4, "--out", tmp_path / "a.png", "--precision")
    said = "The device cpu cannot compute in fp16: expected float32."
    with monkeypatch.context() as patch:  # what torch does not know, it warns of, and computes in float32
        patch.setitem(precision.PRECISIONS, "fp16", torch.float64)
        assert said in refused(capsys, "sample", *options, "fp16")

    def missing(*args):
        raise RuntimeError("could not create a primitive")

    with monkeypatch.context() as patch:
        patch.setattr(precision.F, "conv2d", missing)
        for command in ("sample", "reconstruct"):
            assert said in refused(capsys, command, *options, "fp16")
    with pytest.raises(ValueError, match="Unknown precision 'half': expected one of float32, tf32, bf16, fp16"):
        autocast(torch.device("cpu"), "half")
    assert not (tmp_path / "a.png").exists()


def test_colour_images_keep_their_channels(capsys, tmp_path):
    nets = NetConfig(base_channels=8, multipliers=(1, 2, 2), res_blocks=1, attention=False, groups=4)
    checkpoints.save(wake(VQVAE(tokenizer_config(nets=nets))), tmp_path / "tokenizer.safetensors")
    checkpoints.save(wake(VAR(var_config())), tmp_path / "var.safetensors")
    assert drawn(capsys, tmp_path, tmp_path, "--classes", "0-4", "--count", 2)["images"].shape == (2, 3, 16, 16)


# The others -------------------------------------------------------------------------------------------------------


def test_reconstruct_shows_each_image_beside_its_reconstruction(capsys, pair, tmp_path):
    text = run(capsys, "reconstruct", "--checkpoint", pair, "--count", 10, "--out", tmp_path / "r.png")
    assert text.startswith("10 images, each followed by its reconstruction, mean squared error ")
    with Image.open(tmp_path / "r.png") as grid:
        assert grid.size == (10 * 29 + 1, 2 * 29 + 1)


def test_reconstructions_are_decoded_in_another_precision_and_batch_by_batch(capsys, pair, tmp_path):
    def picture(*options: object) -> np.ndarray:
        run(capsys, "reconstruct", "--checkpoint", pair, "--count", 10, "--out", tmp_path / "r.png", *options)
        with Image.open(tmp_path / "r.png") as grid:
            return np.asarray(grid.convert("L")).astype(int)

    whole = picture()
    assert np.abs(whole - picture("--batch-size", 3)).max() <= 1
    rounded = np.abs(whole - picture("--precision", "bf16"))
    assert 0 < rounded.max() < 40 and rounded.mean() < 1  # the tokens are the same, the decoder's numbers are coarser


def test_report_lists_files_and_scores(capsys, pair, tmp_path):
    (tmp_path / "scores.json").write_text('{"accuracy": 0.98125, "count": 2000}')
    text = run(capsys, "report", tmp_path)
    assert "scores.json" in text
    assert re.search(r"accuracy +0\.9812\n", text)
    assert re.search(r"count +2000\n", text)


@pytest.mark.parametrize(
    ("text", "classes"), [("7", [7]), ("0-3", [0, 1, 2, 3]), ("1,3-5, 9", [1, 3, 4, 5, 9]), ("2,2", [2, 2])]
)
def test_classes_are_written_as_numbers_and_ranges(text, classes):
    assert parse_classes(text, 10) == classes


# tokenize, and train --tokens --------------------------------------------------------------------------------------

TINY = (
    ("tokenizer.nets.base_channels", 8),
    ("tokenizer_train.epochs", 0.05),
    ("model.width", 48),
    ("model_train.epochs", 0.05),
    ("model_train.log_every", 2),
    ("model_train.checkpoint_every", 2),
)  # six steps each
SETTINGS = [word for field, value in TINY for word in ("--set", f"{field}={value}")]


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """(run, cache): a tokenizer that was hardly trained, and its tokens of the digits."""
    folder = tmp_path_factory.mktemp("cached")
    run_folder, tokens = folder / "run", folder / "tokens"
    train = ["train", "--preset", "digits-smoke", "--stage", "tokenizer", "--out", str(run_folder), *SETTINGS]
    assert cli.main(train) == 0
    assert cli.main(["tokenize", "--checkpoint", str(run_folder), "--out", str(tokens)]) == 0
    return run_folder, tokens


def losses(folder) -> list[float]:
    return [entry["loss"] for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == "var"]


def test_a_transformer_trains_from_tokens_in_the_folder_of_the_tokenizer_or_another(capsys, cached, tmp_path):
    run_folder, tokens = cached
    command = ("train", "--preset", "digits-smoke", *SETTINGS)
    assert not (run_folder / "var.safetensors").exists()
    run_quietly(capsys, *command, "--tokens", tokens, "--out", run_folder)
    checkpoints.load_pair(run_folder)
    run_quietly(capsys, *command, "--tokens", tokens, "--tokenizer", run_folder, "--out", tmp_path / "elsewhere")
    checkpoints.load_pair(tmp_path / "elsewhere")
    run_quietly(capsys, *command, "--tokenizer", run_folder, "--out", tmp_path / "pixels")
    assert len(losses(run_folder)) == 3
    assert losses(tmp_path / "elsewhere") == losses(tmp_path / "pixels") == losses(run_folder)
    before = (run_folder / "metrics.jsonl").read_bytes()
    run_quietly(capsys, *command, "--tokens", tokens, "--out", run_folder)  # is complete
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_tokenize_says_what_it_wrote_and_goes_on(capsys, cached, tmp_path):
    run_folder, tokens = cached
    assert TokenCache(tokens).contents.dataset == "ArraySet"
    options = ("--checkpoint", run_folder, "--out", tmp_path, "--split", "heldout", "--shard-size", 1500)
    text = run_quietly(capsys, "tokenize", *options, "--batch-size", 500)
    assert text == f"The tokens of 2,000 images x 1 views are in {tmp_path}.\n"
    assert run_quietly(capsys, "tokenize", *options) == text
    message = refused(capsys, "tokenize", "--checkpoint", run_folder, "--out", tmp_path)
    assert f"{tmp_path} holds another token cache (images: 2000 there, 7200 asked for" in message


def test_tokenize_refuses_what_it_cannot_know(capsys, pair, tmp_path):
    message = refused(capsys, "tokenize", "--checkpoint", pair, "--out", tmp_path / "out")
    assert f"{pair} does not say what to tokenize: expected --dataset or --preset" in message
    options = ("--checkpoint", pair, "--out", tmp_path / "out", "--dataset", "folder", "--data", tmp_path / "images")
    assert "No image folder at" in refused(capsys, "tokenize", *options)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.new("L", (40, 32)).save(tmp_path / "images" / "cat" / "1.png")
    assert "say how many views to store, as in --views 10" in refused(capsys, "tokenize", *options)
    assert not (tmp_path / "out").exists()
    for crop, views in (("random", 3), ("ten", 10), ("center", 1)):
        given = ("--views", 3) if crop == "random" else ("--crop", crop)
        text = run_quietly(capsys, "tokenize", *options[:3], tmp_path / crop, *options[4:], *given)
        assert text.startswith(f"The tokens of 1 images x {views} views")


def test_tokens_of_something_else_are_refused(capsys, cached, pair, tmp_path):
    run_folder, tokens = cached
    command = ("train", "--preset", "digits-smoke", *SETTINGS, "--out", tmp_path / "run")
    assert "No token cache at" in refused(capsys, *command, "--tokens", tmp_path)
    assert "No checkpoint at" in refused(capsys, *command, "--tokens", tokens)  # there is no tokenizer in --out
    given = ("--tokens", tokens, "--tokenizer", run_folder)
    other = ("train", "--preset", "duel-var", "--out", tmp_path / "run")
    assert "Tokenizer and transformer do not belong together" in refused(capsys, *other, *given)
    assert "add --set model.num_classes=10" in refused(capsys, *command, "--set", "model.num_classes=9", *given)
    message = refused(capsys, *command, "--tokens", tokens, "--tokenizer", SHIPPED)
    assert "is not for this tokenizer and model: (grids, V, fingerprint of the tokenizer) is" in message
    assert "--stage tokenizer learns from pixels" in refused(capsys, *command, *given, "--stage", "tokenizer")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.safetensors").write_bytes((pair / "tokenizer.safetensors").read_bytes())
    assert "has a tokenizer of its own, another than" in refused(capsys, *command, *given)


# How it says no ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "info"])
def test_an_unknown_preset_is_refused(capsys, tmp_path, command):
    where = ("--out", tmp_path) if command == "train" else ()
    message = refused(capsys, command, "--preset", "digit", *where)
    assert "Unknown preset 'digit': expected one of digits-smoke, digits, digits-long, emoji, folder-smoke" in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.depht=3", "No field 'model.depht' to override: expected one of depth, width"),
        ("model.depht=3", "did you mean 'depth'?"),
        ("optimizer=3", "No field 'optimizer' to override"),
        ("model.depth=deep", "model.depth must be a whole number, such as 3; got 'deep'"),
        ("model.depth", "A setting is written FIELD=VALUE, as in model_train.epochs=5; got 'model.depth'"),
        ("model_train.batch_size=2.5", "model_train.batch_size must be a whole number, such as 64; got '2.5'"),
        ("model_train.batch_size=0", "model_train: batch_size must be a whole number in [1, 1e9]; got 0."),
        ("model_train.log_every=0", "model_train: log_every must be a whole number of at least 1; got 0."),
        ("model_train.epochs=-1", "model_train: epochs must be a number in (0, 1e6]; got -1.0."),
        ("model_train.final_weight_decay=abc", "final_weight_decay must be a number, or none; got 'abc'."),
        ("model.heads=5", "Width must be a multiple of heads; got width 192, heads 5"),
        ("tokenizer.image_size=64", "tokenizer: The last grid of the schedule must be the latent grid: got (4, 4)"),
        ("model.num_classes=7", "The preset has 7 classes, the data has 10: add --set model.num_classes=10"),
        ("model.codebook_size=100", "do not belong together: (quantizer, grids, V, C)"),
        ("tokenizer_train.batch_size=9000", "The dataset has 7200 images, fewer than one batch of 9000"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(capsys, tmp_path, setting, words):
    assert words in refused(capsys, "train", "--preset", "digits-smoke", "--out", tmp_path / "run", "--set", setting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:-1", "cuda:x", "meta", "mkldnn", "mps", "cpu:0", ""])
def test_a_device_that_is_not_there_is_refused(capsys, pair, tmp_path, device):
    for command in (("train", "--preset", "digits-smoke"), ("sample",), ("reconstruct",)):
        message = refused(capsys, *command, "--out", tmp_path / "out.png", f"--device={device}")
        assert message.startswith(f"minivar: Cannot use the device {device!r}")
        assert message.endswith(": expected cpu, or a cuda device that is there.\n") and message.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("10", r"Classes must lie in 0..9; got '10'"),
        ("0-12", r"Classes must lie in 0..9; got '0-12'"),
        ("5-2", "A range of classes has the smaller one first, as in 0-9; got '5-2'"),
        ("3,5-2", "A range of classes has the smaller one first, as in 0-9; got '3,5-2'"),
        ("3-", "Classes are written as 3, 0-9 or 1,4-6; got '3-'"),
        ("\u00b2", "Classes are written as 3, 0-9 or 1,4-6; got '\u00b2'"),  # a digit to str.isdigit, not to int
        ("0-999999999", "Classes must lie in 0..9; got '0-999999999'"),
        ("9" * 5000, "Classes are written as 3, 0-9 or 1,4-6; got '999"),
        ("cat", "Classes are written as 3, 0-9 or 1,4-6; got 'cat'"),
        ("", "Classes are written as 3, 0-9 or 1,4-6; got ''"),
    ],
)
def test_an_unknown_class_is_refused(capsys, pair, tmp_path, classes, words):
    out = tmp_path / "grid.png"
    assert words in refused(capsys, "sample", "--checkpoint", pair, "--classes", classes, "--out", out)
    assert not out.exists()


def test_a_missing_or_damaged_checkpoint_is_refused(capsys, pair, tmp_path):
    for command in ("sample", "info"):
        message = refused(capsys, command, "--checkpoint", tmp_path / "nowhere")
        assert f"No checkpoint directory at {tmp_path / 'nowhere'}" in message
    for name in ("tokenizer", "var"):
        (tmp_path / f"{name}.safetensors").write_bytes((pair / f"{name}.safetensors").read_bytes()[:-1])
    assert "is not a complete minivar checkpoint" in refused(capsys, "sample", "--checkpoint", tmp_path)
    assert "is not a complete minivar checkpoint" in refused(capsys, "reconstruct", "--checkpoint", tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--count", 0, "--count must be at least 1; got 0."),
        ("--count", 10**18, "--count must be at most 1000000; got 1000000000000000000."),
        ("--batch-size", 0, "--batch-size must be at least 1; got 0."),
        ("--seed", -1, "--seed must be at least 0; got -1."),
        ("--seed", 2**64, "--seed must be at most 18446744073709551615; got 18446744073709551616."),
        ("--cfg", "nan", "cfg nan"),
        ("--cfg", "inf", "cfg inf"),
        ("--cfg", 1e38, "cfg of at most 1000; got cfg 1e+38"),
        ("--cfg", -1, "cfg -1.0"),
        ("--top-p", 2, "top_p 2.0"),
        ("--top-k", -3, "top_k -3"),
    ],
)
def test_impossible_sampling_options_are_refused(capsys, pair, tmp_path, option, value, words):
    message = refused(capsys, "sample", "--checkpoint", pair, "--out", tmp_path / "a.png", f"{option}={value}")
    assert words in message


def test_data_that_is_not_there_is_refused(capsys, pair, tmp_path):
    options = ("--checkpoint", pair, "--out", tmp_path / "r.png", "--dataset")
    assert "'folder' is not embedded" in refused(capsys, "reconstruct", *options, "folder")
    message = refused(capsys, "reconstruct", *options, "folder", "--data", tmp_path / "nowhere")
    assert f"No image folder at {tmp_path / 'nowhere'}" in message
    assert "Unknown dataset 'mnist'" in refused(capsys, "reconstruct", *options, "mnist")
    assert "--count must be at least 1" in refused(capsys, "reconstruct", *options, "digits", "--count", 0)


def test_a_tokenizer_for_other_images_is_refused(capsys, tmp_path):
    checkpoints.save(VQVAE(tokenizer_config()), tmp_path / "tokenizer.safetensors")
    message = refused(capsys, "reconstruct", "--checkpoint", tmp_path, "--out", tmp_path / "r.png")
    assert "The tokenizer expects images of shape (B, 1, 16, 16); got (50, 1, 28, 28)." in message


def test_an_output_that_cannot_be_written_is_refused_before_the_work(capsys, pair, tmp_path, monkeypatch):
    def nothing_is_drawn(*args, **settings):
        raise AssertionError

    monkeypatch.setattr(sampling, "generate", nothing_is_drawn)
    monkeypatch.setattr(VQVAE, "decode", nothing_is_drawn)
    (tmp_path / "file").write_text("here first")
    (tmp_path / "folder.png").mkdir()
    for command in ("sample", "reconstruct"):
        for name, words in (
            (tmp_path / "file" / "grid.png", f"Cannot write {tmp_path}/file/grid.png ("),
            (tmp_path / "folder.png", "is a folder: expected the name of a file."),
            (tmp_path, "is no name for a picture: expected one that ends in .png, .jpg"),
            ("", "'' is no name for a picture"),
            (tmp_path / "grid.xyz", "is no name for a picture"),
        ):
            message = refused(capsys, command, "--checkpoint", pair, "--count", 2, "--out", name)
            assert words in message
    options = ("--checkpoint", pair, "--out", tmp_path / "new" / "grid.png", "--npz")
    assert "is a folder: expected the name of a file" in refused(capsys, "sample", *options, tmp_path)
    assert (tmp_path / "file").read_text() == "here first"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file that even root cannot write to")
def test_a_file_that_cannot_be_replaced_is_refused():
    with pytest.raises(ValueError, match="Cannot write /proc/version"):
        output("/proc/version")


@pytest.mark.parametrize("sides", ["", "3", "4,8,", "0", "-4", "4;8", "256", "100000000", "\u00b2", "4, 4, 8"])
def test_impossible_sides_are_refused(capsys, sides):
    message = refused(capsys, "complexity", f"--sides={sides}", "--no-timing")
    expected = "three or more different n" if sides == "4, 4, 8" else "--sides is a list of powers of two up to 128"
    assert expected in message


def test_more_memory_than_there_is_is_said_in_one_sentence(capsys, monkeypatch):
    def fails(error):
        def describe(*args):
            raise error

        monkeypatch.setattr("minivar.cli.info.describe", describe)
        return cli.main(["info"])

    for error in (
        MemoryError("Unable to allocate"),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"),
    ):
        assert fails(error) == 2
        message = capsys.readouterr().err
        assert message.startswith("minivar: There is not enough memory: ") and message.count("\n") == 1
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        fails(RuntimeError("a mistake of ours"))


def test_a_message_of_several_lines_becomes_one(capsys):
    assert "No run at two lines: expected" in refused(capsys, "report", "two\nlines")


def test_damaged_scores_are_named(capsys, tmp_path):
    for text in ("[1, 2]", "3", "{", "\xff"):
        (tmp_path / "scores.json").write_text(text, encoding="latin-1")
        assert cli.main(["report", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"minivar: {tmp_path}/scores.json is damaged") and message.count("\n") == 1


def test_a_run_that_is_not_there_cannot_be_reported(capsys, tmp_path):
    assert f"No run at {tmp_path / 'nowhere'}" in refused(capsys, "report", tmp_path / "nowhere")


def test_a_rectangular_schedule_is_written_with_both_sides(capsys, tmp_path):
    schedule = ScaleSchedule(((1, 1), (1, 2), (2, 4)))
    tokenizer = VQVAE(tokenizer_config(image_size=(8, 16), schedule=schedule))
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    checkpoints.save(VAR(var_config(schedule=schedule)), tmp_path / "var.safetensors")
    shown = figures(run(capsys, "info", "--checkpoint", tmp_path))
    assert shown["schedule"] == "1, 1x2, 2x4"
    assert shown["image"] == "1 x 8 x 16"


def test_global_random_state_does_not_matter(capsys, pair, tmp_path):
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        images.append(drawn(capsys, pair, tmp_path, "--count", 4)["images"])
    assert np.array_equal(*images)
