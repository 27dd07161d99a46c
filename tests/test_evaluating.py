"""What ``minivar evaluate`` says: of two sets of pictures, of a model, of a tokenizer; and the judges behind it."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tokenizer_config, var_config, wake
from PIL import Image

from minivar import checkpoints, cli, data, evaluation
from minivar.distributed import Ranks
from minivar.evaluation import ContrastConfig, ContrastJudge, Pictures, ProtocolError
from minivar.evaluation.evaluating import look
from minivar.models import VAR
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE

pytestmark = pytest.mark.filterwarnings("ignore:A Fréchet distance over")  # a few pictures have to do here


def some(count: int, seed: int = 0, size: int = 28) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def both(tmp_path) -> tuple[Pictures, Pictures]:
    """The same pictures as a folder and as an npz."""
    pixels, folder = some(7), tmp_path / "folder"
    folder.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:06d}.png")
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    return Pictures(folder), Pictures(tmp_path / "set.npz")


# Sets of pictures ---------------------------------------------------------------------------------------------------


def test_a_folder_and_an_npz_are_read_alike_in_batches(both):
    expected = torch.from_numpy(some(7)).permute(0, 3, 1, 2)
    for pictures in both:
        assert (len(pictures), pictures.shape, pictures.statistics()) == (7, (7, 28, 28, 3), None)
        parts = list(pictures.batches(3))
        assert [len(part) for part in parts] == [3, 3, 1] and parts[0].dtype == torch.uint8
        assert torch.equal(torch.cat(parts), expected)
        assert torch.equal(torch.cat(list(pictures.batches(2, Ranks(rank=1, count=3)))), expected[1::3])
        assert torch.equal(torch.cat(list(pictures.batches(2, most=4))), expected[:4])


def test_an_npz_is_read_where_it_lies_and_a_compressed_one_too(tmp_path):
    pixels = some(9)
    np.savez(tmp_path / "plain.npz", arr_0=pixels, labels=np.arange(9))
    np.savez_compressed(tmp_path / "small.npz", labels=np.arange(9), arr_0=pixels)
    plain, small = (evaluation.open_samples(tmp_path / f"{name}.npz") for name in ("plain", "small"))
    assert isinstance(plain, np.memmap) and not isinstance(small, np.memmap)
    assert np.array_equal(plain, pixels) and np.array_equal(small, pixels)


def test_what_is_written_is_what_is_read(tmp_path):
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    evaluation.write_pngs(images, tmp_path / "grey")
    evaluation.write_npz(images, tmp_path / "set.npz")
    expected = (images * 255).round().byte().expand(-1, 3, -1, -1)
    for path in (tmp_path / "grey", tmp_path / "set.npz"):
        assert torch.equal(Pictures(path).read([0, 1, 2, 3, 4]), expected)
    assert Image.open(tmp_path / "grey" / "000004.png").mode == "L"


def test_sets_that_cannot_be_read_are_refused_in_a_sentence(tmp_path, both):
    with pytest.raises(
        ProtocolError, match=r"nothing holds no pictures \(.*\): expected a folder of them, or an npz"
    ):
        Pictures(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProtocolError, match="empty has no pictures in it: expected files such as 000000.png"):
        Pictures(tmp_path / "empty")
    (tmp_path / "text.npz").write_text("pictures")
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 8, 8, 3), np.float32))
    for name, why in (("text", "File is not a zip file"), ("floats", r"arr_0 is float32 \(2, 8, 8, 3\)")):
        with pytest.raises(ProtocolError, match=rf"{name}.npz holds no pictures \({why}\): expected a folder"):
            Pictures(tmp_path / f"{name}.npz")
    (tmp_path / "broken").mkdir()
    Image.fromarray(some(1)[0]).save(tmp_path / "broken" / "0.png")
    (tmp_path / "broken" / "1.png").write_text("no picture")
    with pytest.raises(ProtocolError, match=r"1.png is no picture \(.*\): expected one that can be opened"):
        list(Pictures(tmp_path / "broken").batches())
    np.savez(tmp_path / "other.npz", images=some(2))
    with pytest.raises(ProtocolError, match="other.npz holds no pictures"):
        Pictures(tmp_path / "other.npz")
    np.savez(tmp_path / "flat.npz", arr_0=np.zeros((4, 9), np.uint8))
    with pytest.raises(ProtocolError, match=r"arr_0 of .*flat.npz must be \(N, H, W, 3\); got \(4, 9\)"):
        Pictures(tmp_path / "flat.npz")
    Image.fromarray(some(1, size=20)[0]).save(both[0].path / "000003.png")
    with pytest.raises(ProtocolError, match="000003.png is 20 x 20, the first 28 x 28"):
        list(both[0].batches(7))


# Two sets -----------------------------------------------------------------------------------------------------------


def colours(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A judge of three features and two classes."""
    features = pixels.float().mean((2, 3))
    return features, (features[:, :2] / 8).softmax(1)


@pytest.fixture
def sets(tmp_path) -> list[Pictures]:
    for name, seed, brighter in (("samples", 0, 30), ("reference", 1, 0)):
        pixels = (some(40, seed, 8) * 0.8).astype(np.uint8) + np.uint8(brighter)
        np.savez(tmp_path / f"{name}.npz", arr_0=pixels)
    return [Pictures(tmp_path / f"{name}.npz") for name in ("samples", "reference")]


def test_scores_of_two_sets_are_those_of_their_features(sets):
    scores = evaluation.compare_pictures(*sets, colours, batch=7, draws=20)
    (fake, probs), (real, _) = (colours(each.read(list(range(40)))) for each in sets)
    assert scores["fid"] == pytest.approx(evaluation.frechet_distance(fake, real), rel=1e-9)
    assert (scores["precision"], scores["recall"]) == evaluation.precision_recall(real, fake)
    assert scores["inception_score"] == pytest.approx(evaluation.inception_score(probs)[0], rel=1e-6)
    low, high = scores["fid_interval"]
    assert 0.5 * scores["fid"] < low < high < 2 * scores["fid"]
    assert (scores["samples"], scores["reference"]) == (40, 40)
    assert evaluation.compare_pictures(sets[1], sets[1], colours)["fid"] == pytest.approx(0, abs=1e-6)


class Together(Ranks):
    """One of several ranks, which are asked one after the other: what each has, and then again with all of it."""

    def gather(self, value):
        place = next(self.place)
        if self.all is None:
            self.heard.setdefault(place, []).append(value)
            return [value]
        return self.all[place]


def test_several_ranks_see_what_one_sees(sets):
    alone, heard = look(sets[0], colours, Ranks(), 7, 100), {}
    for everything in (None, heard):
        for rank in range(3):
            ranks = Together(rank=rank, count=3)
            vars(ranks).update(place=itertools.count(), heard=heard, all=everything)
            moments, features, probs = look(sets[0], colours, ranks, 4, 100)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, alone[0].mean, rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, alone[0].covariance, rtol=1e-9)
    assert torch.equal(features, alone[1]) and torch.equal(probs, alone[2])


def test_published_statistics_of_a_reference_are_used(sets, tmp_path):
    features, _ = colours(sets[1].read(list(range(40))))
    moments = evaluation.Moments(features)
    pixels = sets[1].read(list(range(40))).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "known.npz", arr_0=pixels[:10], mu=moments.mean + 5, sigma=moments.covariance)
    reference = Pictures(tmp_path / "known.npz")
    known = evaluation.compare_pictures(sets[0], reference, colours, known=reference.statistics(), draws=20)
    assert known["fid_interval"][0] < known["fid"] * 1.2 and known["fid_interval"][1] > known["fid"] * 0.8
    moved = evaluation.frechet_distance(colours(sets[0].read(list(range(40))))[0], features.double() + 5)
    assert known["fid"] == pytest.approx(moved, rel=1e-6) and known["reference"] == 10


def test_the_command_uses_published_statistics_for_inception_alone(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_inception", lambda weights, device: colours)
    monkeypatch.setattr(evaluation, "judges_of", lambda world: {"colours": None})
    monkeypatch.setattr(evaluation, "embedded_judge", lambda world, name: colours)
    features, _ = colours(sets[1].read(list(range(40))))
    moments = evaluation.Moments(features)
    pixels = sets[1].read(list(range(40))).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "known.npz", arr_0=pixels, mu=moments.mean + 5, sigma=moments.covariance)
    found = {}
    for judge in ("inception", "emoji"):
        command = ["evaluate", "--samples", str(sets[0].path), "--reference", str(tmp_path / "known.npz")]
        assert cli.main([*command, "--judge", judge, "--json", str(tmp_path / "found.json")]) == 0
        (scores,) = json.loads((tmp_path / "found.json").read_text())["judges"].values()
        found[judge] = scores["fid"]
    fake = colours(sets[0].read(list(range(40))))[0]
    assert found["inception"] == pytest.approx(evaluation.frechet_distance(fake, features.double() + 5), rel=1e-6)
    assert found["emoji"] == pytest.approx(evaluation.frechet_distance(fake, features), rel=1e-6)


def test_sizes_that_differ_are_refused(sets, both):
    with pytest.raises(ProtocolError, match="must have one size: got 8 x 8 in .*samples.npz, 28 x 28 in"):
        evaluation.compare_pictures(sets[0], both[0], colours)


def test_inception_is_the_librarys_and_its_weights_may_be_a_file(tmp_path, monkeypatch):
    """With weights drawn at random, for there is no network here: features and probabilities of the library's own."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(ProtocolError, match=r"No weights of InceptionV3 \(.*\): expected torch-fidelity.s, as"):
        evaluation.load_inception(tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(tmp_path / "empty.pth"))
    torch.save(network.state_dict(), tmp_path / "random.pth")
    pixels = torch.from_numpy(some(3)).permute(0, 3, 1, 2)
    features, probs = evaluation.load_inception(tmp_path / "random.pth")(pixels)
    expected = network.eval()(pixels)
    torch.testing.assert_close(features, expected[0])
    torch.testing.assert_close(probs, expected[1].softmax(1))
    assert features.shape == (3, 2048) and probs.shape == (3, 1008)


def test_labels_are_compared_with_what_the_classifier_sees(tmp_path):
    images, labels = data.load("digits", "heldout").batch(slice(0, 60))
    evaluation.write_npz((images + 1) / 2, tmp_path / "digits.npz")
    pictures = Pictures(tmp_path / "digits.npz")
    for name, shown in (("right", labels), ("wrong", (labels + 1) % 10)):
        np.save(tmp_path / f"{name}.npy", shown.numpy())
    assert evaluation.share_of_labels(pictures, tmp_path / "right.npy") > 0.95
    assert evaluation.share_of_labels(pictures, tmp_path / "wrong.npy") < 0.05
    np.save(tmp_path / "short.npy", labels[:50].numpy())
    with pytest.raises(ProtocolError, match=r"Labels of 60 pictures are whole numbers \(60,\); got int64 \(50,\)"):
        evaluation.share_of_labels(pictures, tmp_path / "short.npy")
    np.save(tmp_path / "shares.npy", labels.numpy() / 2)
    with pytest.raises(ProtocolError, match=r"whole numbers \(60,\); got float64 \(60,\)"):
        evaluation.share_of_labels(pictures, tmp_path / "shares.npy")
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(ProtocolError, match="empty.npy holds no labels"):
        evaluation.share_of_labels(pictures, tmp_path / "empty.npy")
    (tmp_path / "text.npy").write_text("three")
    with pytest.raises(ProtocolError, match="text.npy holds no labels .*: expected an array that np.save wrote"):
        evaluation.share_of_labels(pictures, tmp_path / "text.npy")


# A model ------------------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_scored_by_what_comes_back():
    """By hand, of a tokenizer that nobody trained, in the judges' features."""
    coarse = wake(VQVAE(tokenizer_config(image_size=28, schedule=ScaleSchedule((1, 3, 7)))))
    train, heldout = data.load("digits", "train"), data.load("digits", "validation")
    images = heldout.batch(slice(None))[0]
    scores = evaluation.score_tokenizer(coarse, train, heldout, "digits")
    rebuilt = evaluation.in_batches(lambda part: coarse.decode(coarse.encode(part)), images)
    assert scores["mse"] == pytest.approx(F.mse_loss(rebuilt, images).item(), rel=1e-5)
    errors = ((rebuilt - images) / 2).square().mean((1, 2, 3)).double()
    assert scores["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-5)
    tokens = coarse.encode(images)
    assert scores["codes"] == evaluation.codebook_usage(tokens, 16) and len(scores["codes"]) == 3
    assert scores["queue"] == len(torch.cat([t.flatten() for t in tokens]).unique()) / 16
    for name, features in evaluation.judges_of("digits").items():
        real, fake = (evaluation.in_batches(features, x) for x in (images, rebuilt))
        assert scores["rfid"][name] == pytest.approx(evaluation.frechet_distance(fake, real), rel=1e-4)
    assert "lpips" not in scores

    def perceptual(a, b):  # in the place of VGG-16, whose weights are not here
        return (a - b).abs().mean()

    found = evaluation.score_tokenizer(coarse, train, heldout, "digits", perceptual)
    assert found["lpips"] == pytest.approx((images - rebuilt).abs().mean().item(), rel=1e-5)


def test_the_command_scores_the_shipped_digits_by_both_judges(tmp_path, capsys):
    keep, kept = tmp_path / "images", tmp_path / "scores.json"
    command = ["evaluate", "--count", "60", "--seed", "3", "--split", "validation", "--bootstrap", "5"]
    assert cli.main([*command, "--keep", str(keep), "--json", str(kept)]) == 0
    printed, found = capsys.readouterr().out, json.loads(kept.read_text())
    for word in (
        "classifier",
        "contrast",
        "frechet ratio",
        "precision",
        "accuracy",
        "novelty",
        "rFID, contrast",
        "psnr",
    ):
        assert word in printed
    assert "codes of map 1" in printed and "% in use, perplexity" in printed
    assert (found["seed"], found["count"], found["split"], found["preset"]) == (3, 60, "validation", "digits-long")
    assert found["machine"]["torch"] == torch.__version__.split("+")[0] and found["minutes"] > 0
    assert found["accuracy"] > 0.9 and set(found["judges"]) == {"classifier", "contrast"}
    assert len(Pictures(keep)) == len(Pictures(keep / "samples.npz")) == 60
    assert (keep / "000059.png").is_file()
    two = ["evaluate", "--samples", str(keep), "--reference", str(keep / "samples.npz"), "--judge", "digits"]
    assert cli.main(two) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("fid"))
    assert all(abs(float(word)) < 1e-3 for word in line.split()[1:]) and len(line.split()) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--samples", "x"], "expected --reference beside --samples, got none"),
        (
            ["--samples", "x", "--reference", "y", "--count", "3", "--keep", "z"],
            "got --count, --keep, which goes with",
        ),
        (
            ["--labels", "x.npy", "--device", "cuda"],
            "Not an option for a model (no --samples): got --labels, --device",
        ),
        (["--count", "3"], "--count must be at least 20; got 3."),
        (["--samples", "x", "--reference", "y"], "x holds no pictures"),
        (["--bootstrap", "-1"], "--bootstrap must be at least 0; got -1."),
    ],
)
def test_bad_input_of_the_command_is_one_sentence(options, sentence, capsys):
    assert cli.main(["evaluate", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_models_that_no_judge_knows_and_labels_that_no_judge_reads_are_refused(tmp_path, capsys, both):
    checkpoints.save(VQVAE(tokenizer_config()), tmp_path / "tokenizer.safetensors")
    checkpoints.save(VAR(var_config()), tmp_path / "var.safetensors", preset="digits", dataset="cifar10")
    assert cli.main(["evaluate", "--checkpoint", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "There are judges for digits and emoji of 28 and 32 pixels" in said and "is of cifar10: expected" in said
    sets = ["--samples", str(both[0].path), "--reference", str(both[1].path), "--labels", "some.npy"]
    assert cli.main(["evaluate", *sets, "--judge", "emoji"]) == 2
    assert "--labels needs a judge who names classes: expected --judge digits, got emoji" in capsys.readouterr().err
    with pytest.raises(ValueError, match="No judge for 'cifar10': expected digits or emoji"):
        evaluation.judges_of("cifar10")


# Judges -------------------------------------------------------------------------------------------------------------


def test_the_loss_of_contrast_is_the_papers_first_equation():
    torch.manual_seed(0)
    first, second = (F.normalize(torch.randn(4, 6, dtype=torch.float64), dim=1) for _ in range(2))
    both, losses = [*first, *second], []
    for i, view in enumerate(both):
        scores = [math.exp(float(view @ other) / 0.3) for other in both]
        losses.append(-math.log(scores[(i + 4) % 8] / (sum(scores) - scores[i])))
    assert evaluation.contrast_loss(first, second, 0.3).item() == pytest.approx(sum(losses) / 8)


def test_retrieval_counts_things_that_are_found_again_in_another_style():
    things = torch.tensor([0, 1, 2, 0, 1, 3])
    styles = torch.tensor([0, 0, 0, 1, 1, 1])
    perfect = F.one_hot(things, 4).float()
    found, chance = evaluation.retrieval(perfect, things, styles)
    assert (found, chance) == (1.0, pytest.approx(1 / 3))  # things 2 and 3 are drawn once: nobody asks for them
    swapped = perfect[[1, 0, 2, 3, 4, 5]]
    assert evaluation.retrieval(swapped, things, styles)[0] == 0.0
    half = torch.tensor([[1.0, 0], [0, 1], [5, 5], [1, 0], [1, 0.1], [9, -9]])
    assert evaluation.retrieval(half, things, styles)[0] not in (0.0, 1.0)


def test_a_judge_says_what_images_it_expects():
    judge = ContrastJudge(ContrastConfig(channels=3, image_size=32, patch=2, width=8)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert judge.features(images).shape == (2, 64)
    torch.testing.assert_close(judge(images).norm(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match=r"This judge expects images \(B, 3, 32, 32\); got \(2, 1, 28, 28\)"):
        judge.features(torch.zeros(2, 1, 28, 28))


def test_the_shipped_judge_of_emoji_finds_heldout_things_again_better_than_pixels_layouts_and_chance():
    judge, header = evaluation.load_contrast_judge(data.DATA_ROOT / "checkpoints" / "judge-emoji.safetensors")
    heldout = data.load("emoji-32", "heldout")
    images = heldout.batch(slice(None))[0]
    what = heldout.extra["thing"].values, heldout.extra["style"].values
    found, chance = evaluation.retrieval(evaluation.in_batches(judge.features, images), *what)
    pixels, layouts = (evaluation.retrieval(x, *what)[0] for x in (images.flatten(1), evaluation.layout(images)))
    assert found > 1.3 * max(pixels, layouts) and found > 20 * chance
    for name, value in (("judge", found), ("pixels", pixels), ("layout", layouts), ("chance", chance)):
        assert header["heldout"][name] == pytest.approx(value, abs=0.005)


def test_the_shipped_judge_of_digits_knows_heldout_digits_without_having_seen_a_label():
    judge, header = evaluation.load_contrast_judge(data.DATA_ROOT / "checkpoints" / "judge-digits.safetensors")
    images, labels = data.load("digits", "heldout").batch(slice(None))
    features = evaluation.in_batches(judge.features, images)
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
    share = (labels[nearest] == labels).float().mean().item()
    assert share == pytest.approx(header["heldout"]["judge"], abs=0.005)
    assert share > header["heldout"]["pixels"]


@pytest.mark.parametrize("world", evaluation.WORLDS)
def test_every_judge_tells_real_images_from_others(world):
    name = "digits" if world == "digits" else "emoji-32"
    train, heldout = data.load(name, "train"), data.load(name, "heldout")
    real = (train.batch(torch.arange(700))[0] + 1) / 2
    if world == "digits":
        harmed = F.avg_pool2d(real, 5, 1, 2, count_include_pad=False)
    else:
        harmed = real.mean(1, keepdim=True).expand(-1, 3, -1, -1)  # blurred emoji are 1.5 to 3 times as far
    first, last = (
        {judge: scores["frechet_ratio"] for judge, scores in evaluation.judge(images, train, heldout, world).items()}
        for images in (real, harmed)
    )
    assert len(first) == 2
    assert all(0.4 < ratio < 2.5 for ratio in first.values())
    assert all(last[judge] > 3 * first[judge] for judge in first)


def test_judges_agree_on_a_pair_where_both_prefer_the_same_model():
    assert evaluation.agreement({"a": [1, 2, 3], "b": [10, 20, 30]}) == 1
    assert evaluation.agreement({"a": [1, 2, 3], "b": [3, 2, 1]}) == 0
    assert evaluation.agreement({"a": [1, 2, 3], "b": [1, 3, 2]}) == pytest.approx(2 / 3)
    assert evaluation.agreement({"a": [1, 2], "b": [1, 1]}) == 0  # undecided is not agreed
    with pytest.raises(ValueError, match="Agreement is of two judges on the same two models or more; got"):
        evaluation.agreement({"a": [1, 2], "b": [1, 2, 3]})
