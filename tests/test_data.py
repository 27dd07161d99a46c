"""Datasets: what a batch is, which view an epoch shows, torchvision's files, and everything that can be missing."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from minivar import data, presets
from minivar.data import DataError


def test_bytes_and_floats_are_inverse():
    every = torch.arange(256, dtype=torch.uint8)
    floats = data.to_float(every)
    assert floats.dtype == torch.float32
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(data.to_uint8(floats), every)
    assert data.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("split", "size"), [("train", 7200), ("validation", 800), ("heldout", 2000)])
def test_embedded_digits(split, size):
    digits = data.load("digits", split)
    assert len(digits) == len(digits.labels) == size
    assert digits.image_shape == (1, 28, 28)
    assert digits.class_names == tuple("0123456789")
    images, labels = digits.batch(torch.tensor([3, 0]))
    assert images.shape == (2, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert labels.tolist() == digits.labels[[3, 0]].tolist()
    assert torch.equal(images, digits.batch(slice(0, 4))[0][[3, 0]])


def test_the_splits_of_the_digits_share_no_image():
    train, heldout = (set(map(bytes, data.load("digits", s).images.numpy())) for s in ("train", "heldout"))
    assert not train & heldout


def test_views_follow_the_originals_and_differ_a_little():
    digits = data.load("digits", "heldout")
    views = data.jittered(digits, 3)
    assert len(views) == 6000
    assert torch.equal(views.images[:2000], digits.images)
    assert torch.equal(views.labels, digits.labels.repeat(3))
    assert views.class_names == digits.class_names
    for begin in (2000, 4000):
        difference = (data.to_float(views.images[begin : begin + 2000]) - data.to_float(digits.images)).abs()
        assert difference.flatten(1).amax(1).min() > 0  # every digit was changed
        assert difference.mean() < 0.15  # two different digits are 0.4 apart
    assert not torch.equal(views.images[2000:4000], views.images[4000:])
    assert torch.equal(data.jittered(digits, 3).images, views.images)


def test_splits_of_the_digits_share_nothing_and_are_all_of_them():
    parts = [data.load("digits", split).images for split in data.SPLITS]
    assert len({image.numpy().tobytes() for part in parts for image in part}) == 10_000
    assert torch.bincount(data.load("digits", "validation").labels).tolist() == [80] * 10


def test_a_preset_is_validated_on_images_as_they_are():
    validation = presets.validation_set(presets.get("digits"))
    assert torch.equal(validation.images, data.load("digits", "validation").images)
    named = presets.validation_set(presets.get("emoji"))
    assert len(named.class_names) == 223
    assert len(named) == 3 * len(data.load("emoji", "validation"))
    assert presets.validation_set(presets.get("folder-smoke")) is None


def bars(count: int) -> torch.Tensor:
    """White bars on black, each a Gaussian five times as long as wide, lying on its side: (count, 1, 64, 64)."""
    rows, columns = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    bar = torch.exp(-0.5 * (columns / 10) ** 2 - 0.5 * (rows / 2) ** 2)
    return (2 * bar - 1).expand(count, 1, -1, -1)


def moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of bright shapes on black (N, 1, h, w): degrees anticlockwise from lying, mass, centre (N, 2) in pixels."""
    weight = (images[:, 0].double() + 1) / 2
    height, width = weight.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    mass = weight.sum((1, 2))
    cx, cy = ((weight * axis).sum((1, 2)) / mass for axis in (x, y))
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    xx, yy, xy = ((weight * a * b).sum((1, 2)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    degrees = torch.rad2deg(0.5 * torch.atan2(-2 * xy, xx - yy))  # rows grow downwards
    return degrees, mass, torch.stack([cx, cy], 1)


def assert_spread(values: torch.Tensor, low: float, high: float, slack: float) -> None:
    """400 values that fill the interval evenly, up to ``slack`` of its length for what the pixels blur."""
    slack *= high - low
    assert low - slack < values.min() < low + 0.03 * (high - low) + slack
    assert high - 0.03 * (high - low) - slack < values.max() < high + slack
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.07 * (high - low))


@pytest.mark.parametrize("degrees", [6, 20])
def test_jitter_turns_by_up_to_its_angle_either_way(degrees):
    turned = data.views.jitter(bars(400), degrees, 0.0, 0.0, torch.Generator().manual_seed(0))
    angle, mass, centre = moments(turned)
    assert_spread(angle, -degrees, degrees, 0.01)
    torch.testing.assert_close(mass, moments(bars(1))[1].expand(400), rtol=0.01, atol=0)  # neither larger
    assert centre.abs().max() < 0.05  # nor elsewhere


def test_jitter_resizes_by_up_to_its_scale_either_way():
    resized = data.views.jitter(bars(400), 0.0, 0.2, 0.0, torch.Generator().manual_seed(0))
    angle, mass, centre = moments(resized)
    # sampled at positions that lie s times as far apart, a shape has 1 / s of its sides
    assert_spread((moments(bars(1))[1] / mass).sqrt(), 0.8, 1.2, 0.02)
    assert angle.abs().max() < 0.05 and centre.abs().max() < 0.05


def test_jitter_moves_by_up_to_its_shift_in_pixels_either_way():
    moved = data.views.jitter(bars(400), 0.0, 0.0, 3.0, torch.Generator().manual_seed(0))
    angle, mass, centre = moments(moved)
    for axis in centre.unbind(1):
        assert_spread(axis, -3, 3, 0.01)
    assert abs(torch.corrcoef(centre.T)[0, 1]) < 0.2  # each axis for itself
    assert angle.abs().max() < 0.05
    torch.testing.assert_close(mass, moments(bars(1))[1].expand(400), rtol=0.01, atol=0)


def test_jitter_fills_what_turns_in_with_the_background():
    grey = torch.full((50, 3, 16, 16), 0.25)
    for background in (-1.0, 1.0):
        turned = data.views.jitter(grey, 45, 0.0, 0.0, torch.Generator().manual_seed(0), background)
        corners = turned[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten(1)
        far = (corners - background).abs().amax(1) < (corners - 0.25).abs().amin(1)
        assert far.float().mean() > 0.4  # corners of those that turned far
        torch.testing.assert_close(turned[:, :, 7:9, 7:9], grey[:, :, 7:9, 7:9], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("options", "degrees", "scale"), [((), 6, 0.06), ((12, 0.15), 12, 0.15)])
def test_views_turn_and_resize_as_much_as_they_are_told(options, degrees, scale):
    images = data.ArraySet(data.to_uint8(bars(300)), torch.zeros(300, dtype=torch.int64), ["bar"])
    angle, mass, centre = moments(data.to_float(data.jittered(images, 2, *options).images[300:]))
    assert_spread(angle, -degrees, degrees, 0.03)
    assert_spread((moments(bars(1))[1] / mass).sqrt(), 1 - scale, 1 + scale, 0.1)
    assert centre.abs().max() < 0.1


def test_a_preset_gets_as_many_views_as_it_asks_for():
    assert len(presets.training_set(presets.get("digits-smoke"))) == 7200
    assert len(presets.training_set(presets.get("digits-smoke", {"views": 2}))) == 14400


def test_views_of_a_folder_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "a" / "0.png")
    preset = presets.get("digits-smoke", {"views": 2, "dataset": "folder"})
    with pytest.raises(DataError, match="Views are for datasets held in memory; got views=2 for 'folder'"):
        presets.training_set(preset, tmp_path)


def test_photographs_of_cifar10_have_mirror_images_as_second_views(monkeypatch):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    small = data.ArraySet(images, torch.arange(6), list("abcdef"), {"more": data.Labels(torch.arange(6), ("x",))})
    monkeypatch.setattr(data, "load", lambda name, *_, **__: small)
    both = presets.training_set(presets.get("cifar32"), "somewhere")
    assert torch.equal(both.images, torch.cat([images, images.flip(-1)]))
    assert both.labels.tolist() == both.extra["more"].values.tolist() == [*range(6), *range(6)]
    with pytest.raises(DataError, match="its mirror image are 2 views; got views=3"):
        presets.training_set(presets.get("cifar32", {"views": 3}), "somewhere")


def test_llamagens_two_trainings_cut_pictures_in_two_ways(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (300, 280)).save(tmp_path / "a" / "0.png")
    preset = presets.get("llamagen-b-256")
    assert presets.training_set(preset, tmp_path).crop == "zoom"
    assert presets.training_set(preset, tmp_path, "tokenizer").crop == "zoom"
    transformer = presets.training_set(preset, tmp_path, "model")
    assert (transformer.crop, transformer.views) == ("ten", 10)
    for stage in ("tokenizer", "model"):
        assert presets.training_set(presets.get("var-d16"), tmp_path, stage).crop == "random"


def test_which_view_an_epoch_shows():
    index = torch.tensor([0, 1, 9, 10])
    assert data.view_of(index, 7, None).tolist() == [7, 7, 7, 7]
    assert data.view_of(index, 7, 10).tolist() == [7, 8, 6, 7]
    assert data.view_of(index, 3, 1).tolist() == [0, 0, 0, 0]
    shown = torch.stack([data.view_of(torch.arange(40), epoch, 4) for epoch in range(5, 9)])
    assert shown.sort(0).values.T.tolist() == [[0, 1, 2, 3]] * 40  # in V epochs every view of every image
    assert torch.bincount(shown[0]).tolist() == [10, 10, 10, 10]  # and a mixture in each
    assert shown.dtype == torch.int64


def test_arrays_have_one_view():
    digits = data.load("digits", "heldout")
    index = torch.tensor([3, 0])
    assert digits.views == 1
    for images, labels in (
        digits.at_view(index, 0),
        digits.at_view(index, torch.tensor([1, 2])),
        digits.batch(index, 5),
    ):
        assert torch.equal(images, data.to_float(digits.images[index]))
        assert labels.tolist() == digits.labels[index].tolist()


def test_unknown_names_are_refused():
    known = "digits, quartets, emoji, emoji-64, emoji-32, fashion-mnist, cifar10, folder, shards"
    with pytest.raises(DataError, match=f"Unknown dataset 'mnist': expected one of {known}"):
        data.load("mnist")
    with pytest.raises(DataError, match="The dataset 'digits' takes no options; got crop, seed"):
        data.load("digits", crop="ten", seed=1)
    with pytest.raises(DataError, match="Unknown split 'test': expected one of train, validation, heldout"):
        data.load("digits", "test")
    with pytest.raises(DataError, match="'cifar10' is not embedded: expected the folder that holds it, got none"):
        data.load("cifar10")


# torchvision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "spelt"), [("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10")])
def test_a_dataset_that_was_not_downloaded_says_how_to(name, spelt, tmp_path):
    with pytest.raises(DataError, match=rf"{spelt} is not under .*download it first with .*{spelt}\(.*download=True"):
        data.load(name, "train", tmp_path)


def test_fashion_mnist_is_read_from_torchvisions_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix, part in (("train", pixels), ("t10k", pixels[:2])):
        content = {
            "images-idx3-ubyte": struct.pack(">4i", 2051, len(part), 28, 28) + part.tobytes(),
            "labels-idx1-ubyte": struct.pack(">2i", 2049, len(part)) + bytes(range(len(part))),
        }
        for name, value in content.items():
            (raw / f"{prefix}-{name}").write_bytes(value)
            (raw / f"{prefix}-{name}.gz").write_bytes(gzip.compress(value))
    train, heldout = (data.load("fashion-mnist", split, tmp_path) for split in ("train", "heldout"))
    assert (len(train), len(heldout)) == (5, 2)
    assert train.image_shape == (1, 28, 28)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.class_names[:2] == ("T-shirt/top", "Trouser")
    assert np.array_equal(train.images[:, 0].numpy(), pixels)


def test_cifar10_is_read_from_torchvisions_files(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    # torchvision compares MD5 sums with those of the real files; None switches that off for the invented ones.
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, attribute, [[name, None] for name, _ in getattr(CIFAR10, attribute)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
    for i, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        content = {"data": pixels[i].reshape(2, 3072), "labels": [i, 9]}
        (base / name).write_bytes(pickle.dumps(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    train, heldout = (data.load("cifar10", split, tmp_path) for split in ("train", "heldout"))
    assert train.image_shape == (3, 32, 32)
    assert np.array_equal(train.images.numpy(), pixels[:5].reshape(10, 3, 32, 32))
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert np.array_equal(heldout.images.numpy(), pixels[5])
    assert train.class_names == tuple(names)
