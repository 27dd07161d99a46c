"""``minivar reconstruct`` and ``minivar evaluate`` of published models: small pairs in the published layouts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_files import GPT_ROW, VAR_ROW, gpt_pair, var_pair, write

from minivar import checkpoints, cli, data, evaluation

pytestmark = pytest.mark.filterwarnings("ignore:A Fréchet distance over")  # a few pictures have to do here
ROWS = {row.name: dataclasses.replace(row, name=row.name) for row in (VAR_ROW, GPT_ROW)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder with the files of each row, of twenty classes."""
    root = tmp_path_factory.mktemp("published")
    pairs = {"tiny-var": var_pair(num_classes=20), "tiny-gpt": gpt_pair(num_classes=20)}
    return {name: write(root / name, ROWS[name], *pair) for name, pair in pairs.items()}


@pytest.fixture
def table(monkeypatch):
    """The small rows are in the table."""
    for row in ROWS.values():
        monkeypatch.setitem(checkpoints.MODELS, row.name, row)


@pytest.fixture
def colours(monkeypatch):
    """In the place of InceptionV3, whose weights are not here: the mean colour of each quarter."""

    def judge(pixels):
        features = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).flatten(1) / 255
        return features, torch.softmax(features, 1)

    monkeypatch.setattr(evaluation, "load_inception", lambda weights, device: judge)
    return judge


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A data set as a folder: 24 pictures of two classes, of 64 pixels, for training and for validation."""
    draw = np.random.RandomState(0)
    for split in ("train", "val"):
        for i in range(24):
            file = tmp_path / "pictures" / split / f"class{i % 2}" / f"{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return tmp_path / "pictures"


def refused(capsys, *argv: object) -> str:
    """What a command that fails prints: one line on standard error."""
    assert cli.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minivar: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("name", ROWS)
def test_reconstruct_shows_pictures_after_the_tokens_of_a_published_tokenizer(
    name, folders, table, pictures, tmp_path, capsys
):
    out = tmp_path / "r.png"
    command = ["reconstruct", "--dataset", "folder", "--data", pictures, "--count", 4, "--out", out]
    assert cli.main([str(word) for word in [*command, "--published", name, "--from", folders[name]]]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 images, each followed by its reconstruction, mean squared error ")
    tokenizer, _, _ = checkpoints.open_published(ROWS[name], folders[name])

    images, _ = data.load("folder", "heldout", pictures, 64, 3).batch(slice(0, 4))
    error = (tokenizer.decode(tokenizer.encode(images)) - images).square().mean().item()
    assert float(said.split("mean squared error ")[1].split(":")[0]) == pytest.approx(error, abs=2e-4)
    with Image.open(out) as picture:
        assert picture.height < 2 * 64 + 16 and picture.width > 8 * 64  # eight pictures of 64 pixels in a row


def test_evaluate_draws_equally_many_of_each_class_and_compares_them(folders, table, colours, tmp_path, capsys):
    reference = tmp_path / "reference.npz"
    np.savez(reference, arr_0=np.random.RandomState(1).randint(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    keep, kept = tmp_path / "keep", tmp_path / "scores.json"
    command = ["evaluate", "--published", "tiny-var", "--from", folders["tiny-var"], "--reference", reference]
    command += ["--count", 40, "--seed", 3, "--keep", keep, "--json", kept, "--cfg", 1]
    assert cli.main([str(word) for word in command]) == 0
    assert "inception" in capsys.readouterr().out
    found = json.loads(kept.read_text())
    assert (found["model"], found["seed"], found["count"]) == ("tiny-var", 3, 40)
    assert found["settings"] == {**dataclasses.asdict(VAR_ROW.sampling), "cfg": 1.0}
    samples = evaluation.Pictures(keep / "samples.npz")
    assert samples.shape == (40, 32, 32, 3)  # as large as the reference
    expected = evaluation.compare_pictures(samples, evaluation.Pictures(reference), colours)
    assert found["judges"]["inception"] == pytest.approx(expected)
    tokenizer, model, _ = checkpoints.open_published(VAR_ROW, folders["tiny-var"])
    evaluation.write_samples(
        tokenizer, model, tmp_path / "again.npz", 40, size=32, seed=3, progress=False, **found["settings"]
    )
    again = evaluation.Pictures(tmp_path / "again.npz")
    assert torch.equal(again.read(list(range(40))), samples.read(list(range(40))))


def test_a_model_of_the_digits_in_a_folder_is_judged_as_one_of_a_checkpoint(monkeypatch, tmp_path):
    """``--published FOLDER`` of minivar's own files is ``--checkpoint FOLDER``."""
    monkeypatch.setattr(evaluation, "draw", lambda model, tokenizer, labels, seed, **settings: settings)
    monkeypatch.setattr(evaluation, "score_samples", lambda settings, *_: {"judges": {}, "drawn with": settings})
    monkeypatch.setattr(evaluation, "score_tokenizer", lambda tokenizer, *_: {"codes": []})
    scores = []
    for option in ("--checkpoint", "--published"):
        kept = tmp_path / f"{option}.json"
        assert cli.main(["evaluate", option, str(cli.shared.SHIPPED), "--count", "20", "--json", str(kept)]) == 0
        found = json.loads(kept.read_text())
        scores.append({key: found[key] for key in ("drawn with", "settings", "preset", "seed", "count", "split")})
    assert scores[0] == scores[1] and scores[0]["preset"] == "digits-long"


def test_what_does_not_go_together_is_one_sentence_and_nothing_is_read(
    folders, table, pictures, tmp_path, capsys, monkeypatch
):
    def read(*_, **__):
        raise AssertionError("it was opened")

    monkeypatch.setattr(checkpoints, "open_published", read)
    named, beside = ("--published", "tiny-var"), ("--reference", "x.npz")
    np.savez(tmp_path / "wide.npz", arr_0=np.zeros((40, 8, 16, 3), np.uint8))
    for words, said in (
        ((*named, "--checkpoint", "x", "--reference", tmp_path / "y.npz", "--keep", "k"), "y.npz holds no pictures"),
        (named, "No judge of minivar's knows ImageNet, whose classes tiny-var draws: expected --reference"),
        (("--published", "var-d17"), "Unknown published model 'var-d17': expected one of var-d16"),
        (("--offline",), "--from and --offline are for --published"),
        ((*named, *beside), "expected --keep DIR beside --reference, got none"),
        ((*named, *beside, "--keep", "k", "--split", "validation"), "(--reference, no --samples): got --split"),
        ((*named, "--samples", "a", "--from", "b", *beside), "(--samples): got --published, --from"),
        ((*named, "--reference", tmp_path / "wide.npz", "--keep", "k"), "a --reference of squares, got 16 x 8"),
    ):
        assert said in refused(capsys, "evaluate", *words), words
    data = ("--dataset", "folder", "--data", pictures, "--out", tmp_path / "r.png")
    for words, said in (
        ((*named, "--checkpoint", "x"), "--checkpoint and --published each name a model: expected one of them"),
        (("--from", "x"), "--from and --offline are for --published"),
        (("--published", "var-d17"), "Unknown published model 'var-d17'"),
        (("--published", "llamagen-t2i-xl-256"), "draws from captions"),
    ):
        assert said in refused(capsys, "reconstruct", *words, *data), words
    assert not (tmp_path / "r.png").exists() and not Path("k").exists()


def test_an_impossible_count_of_a_published_model_is_one_sentence(folders, table, colours, tmp_path, capsys):
    np.savez(tmp_path / "r.npz", arr_0=np.zeros((40, 64, 64, 3), np.uint8))
    words = ["--published", "tiny-gpt", "--from", folders["tiny-gpt"], "--reference", tmp_path / "r.npz"]
    said = refused(capsys, "evaluate", *words, "--count", 30, "--keep", tmp_path / "keep")
    assert "equally many of each of 20 classes" in said and "got count 30" in said
