"""Datasets: what a batch is, folders of images, torchvision's files, and everything that can be missing."""

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


@pytest.mark.parametrize(("split", "size"), [("train", 8000), ("heldout", 2000)])
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


def test_a_preset_gets_as_many_views_as_it_asks_for():
    assert len(data.training_set(presets.get("digits-smoke"))) == 8000
    assert len(data.training_set(presets.get("digits-smoke", {"views": 2}))) == 16000


def test_views_of_a_folder_are_refused(folder):
    preset = presets.get("digits-smoke", {"views": 2, "dataset": "folder"})
    with pytest.raises(DataError, match="Views are for datasets held in memory; got views=2 for 'folder'"):
        data.training_set(preset, folder)


# Folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """cat: two pictures, dog: one in a sub-folder, besides a text; every picture has one colour of its own."""
    for name, value, size in (
        ("cat/b.png", 20, (20, 30)),
        ("cat/a.JPG", 10, (40, 20)),
        ("dog/more/c.png", 30, (8, 8)),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (value, 2 * value, 3 * value)).save(path)
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_is_read_in_order_of_class_and_name(folder):
    pictures = data.load("folder", "heldout", folder, size=16)
    assert len(pictures) == 3
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 1]
    assert [path.name for path in pictures.paths] == ["a.JPG", "b.png", "c.png"]
    images, labels = pictures.batch(torch.tensor([2, 0]))
    assert images.shape == (2, 3, 16, 16)
    assert labels.tolist() == [1, 0]
    assert data.to_uint8(images[0])[:, 0, 0].tolist() == [30, 60, 90]
    assert (data.to_uint8(images[1])[:, 8, 8] - torch.tensor([10, 20, 30])).abs().max() <= 2  # JPEG


def test_a_folder_can_be_read_in_grey(folder):
    images, _ = data.load("folder", "heldout", folder, size=16, channels=1).batch(slice(None))
    assert images.shape == (3, 1, 16, 16)
    assert data.to_uint8(images)[2].unique().tolist() == [round(0.299 * 30 + 0.587 * 60 + 0.114 * 90)]


def test_the_crop_is_central_when_held_out_and_random_in_training(tmp_path):
    ramp = np.tile(np.arange(128, dtype=np.uint8), (64, 1))  # brightness = column
    (tmp_path / "a").mkdir()
    Image.fromarray(ramp).save(tmp_path / "a" / "ramp.png")
    heldout = data.FolderSet(tmp_path, 64, 1, resize=1.0)
    pixels = data.to_uint8(heldout.batch(slice(None))[0])[0, 0]
    assert torch.equal(pixels, torch.arange(32, 96, dtype=torch.uint8).expand(64, 64))
    train = data.FolderSet(tmp_path, 64, 1, random_crop=True, resize=1.0)
    torch.manual_seed(0)
    starts = {int(data.to_uint8(train.batch(slice(None))[0])[0, 0, 0, 0]) for _ in range(50)}
    assert len(starts) > 10
    assert min(starts) >= 0
    assert max(starts) <= 64


def test_the_short_side_is_resized_before_the_crop(tmp_path):
    (tmp_path / "a").mkdir()
    half = np.zeros((90, 180), dtype=np.uint8)
    half[:, 90:] = 255
    Image.fromarray(half).save(tmp_path / "a" / "half.png")
    pixels = data.to_uint8(data.FolderSet(tmp_path, 16, 1).batch(slice(None))[0])[0, 0]
    assert pixels[:, :7].max() <= 10  # the edge stays in the middle
    assert pixels[:, 9:].min() >= 245


def test_train_and_heldout_folders_are_told_apart(folder, tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        (tmp_path / "sets" / split / "x").mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8)).save(tmp_path / "sets" / split / "x" / f"{i}.png")
    assert len(data.load("folder", "train", tmp_path / "sets", size=8)) == 2
    assert len(data.load("folder", "heldout", tmp_path / "sets", size=8)) == 1
    assert data.load("folder", "train", folder).random_crop
    assert not data.load("folder", "heldout", folder).random_crop


def test_an_unreadable_image_is_named(folder):
    (folder / "cat" / "a.JPG").write_bytes(b"this is no picture")
    cut = (folder / "cat" / "b.png").read_bytes()
    (folder / "cat" / "b.png").write_bytes(cut[: len(cut) // 2])
    pictures = data.load("folder", "heldout", folder, size=16)
    for i, name in enumerate(("a.JPG", "b.png")):
        with pytest.raises(DataError, match=f"Cannot read the image .*{name}: expected a picture, got") as caught:
            pictures.batch(torch.tensor([i]))
        assert "\n" not in str(caught.value)
    assert pictures.batch(torch.tensor([2]))[0].shape == (1, 3, 16, 16)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"is empty: expected images \(.*\.png.*\).*found 1 sub-folders and no image"):
        data.load("folder", "train", tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="No image folder at .*nowhere: expected a folder with"):
        data.load("folder", "train", tmp_path / "nowhere")


def test_unknown_names_are_refused():
    known = "digits, emoji, fashion-mnist, cifar10 or folder"
    with pytest.raises(DataError, match=f"Unknown dataset 'mnist': expected {known}"):
        data.load("mnist")
    with pytest.raises(DataError, match="Unknown split 'test': expected 'train' or 'heldout'"):
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


def test_a_folder_with_training_images_alone_has_no_heldout_ones(tmp_path):
    (tmp_path / "train" / "x").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "train" / "x" / "0.png")
    with pytest.raises(data.DataError, match="expected heldout or val"):
        data.load("folder", "heldout", tmp_path, size=8)
