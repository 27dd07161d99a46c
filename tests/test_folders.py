"""Folders of images: the published crops, the same pictures however they are asked for, and what cannot be read."""

import dataclasses
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import Interrupted, Stopping, tokenizer_config
from PIL import Image
from torchvision import transforms

from minivar import data, training
from minivar.data import DataError
from minivar.data import pictures as pictures_module
from minivar.data.folders import FolderSet
from minivar.distributed import Ranks
from minivar.tokenizer import VQVAE
from minivar.training import TrainConfig

SIZES = ((40, 30), (30, 41), (64, 64), (17, 90), (200, 133), (9, 8))


def scene(width: int, height: int, seed: int) -> Image.Image:
    """A picture like no other: smooth colours, so that JPEG keeps it, without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two classes of twelve JPEGs each."""
    root = tmp_path_factory.mktemp("scenes")
    for number in range(24):
        path = root / "ab"[number // 12] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        scene(*SIZES[number % len(SIZES)], number).save(path)
    return root


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


# What is listed ---------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_order_of_class_and_name(folder):
    pictures = data.load("folder", "heldout", folder, size=16)
    assert isinstance(pictures, FolderSet)
    assert len(pictures) == 3
    assert pictures.class_names == ("cat", "dog")
    assert pictures.labels.tolist() == [0, 0, 1]
    assert pictures.files == ["cat/a.JPG", "cat/b.png", "dog/more/c.png"]
    images, labels = pictures.batch(torch.tensor([2, 0]))
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.tolist() == [1, 0]
    assert labels.dtype == torch.int64
    assert data.to_uint8(images[0])[:, 0, 0].tolist() == [30, 60, 90]
    assert (data.to_uint8(images[1])[:, 8, 8] - torch.tensor([10, 20, 30])).abs().max() <= 2  # JPEG
    assert torch.equal(pictures.batch(slice(0, None, 2))[0], images[[1, 0]])


def test_a_folder_can_be_read_in_grey(folder):
    images, _ = data.load("folder", "heldout", folder, size=16, channels=1).batch(slice(None))
    assert images.shape == (3, 1, 16, 16)
    assert data.to_uint8(images)[2].unique().tolist() == [round(0.299 * 30 + 0.587 * 60 + 0.114 * 90)]


def test_what_systems_leave_behind_is_not_listed(folder):
    (folder / ".cache").mkdir()
    (folder / "cat" / ".thumbs").mkdir()
    for name in ("cat/._a.JPG", "cat/.thumbs/a.jpg", ".cache/x.png", "stray.png"):
        Image.new("L", (8, 8)).save(folder / name)
    (folder / "elsewhere").symlink_to(folder / "dog")
    (folder / "dog" / "round").symlink_to(folder / "dog")
    pictures = FolderSet(folder, 8)
    assert pictures.class_names == ("cat", "dog", "elsewhere")
    assert pictures.files == ["cat/a.JPG", "cat/b.png", "dog/more/c.png", "elsewhere/more/c.png"]


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"is empty: expected images \(.*\.png.*\).*found 1 sub-folders and no image"):
        data.load("folder", "train", tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="No image folder at .*nowhere: expected a folder with"):
        data.load("folder", "train", tmp_path / "nowhere")


def test_train_and_heldout_folders_are_told_apart(folder, tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        (tmp_path / "sets" / split / "x").mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8)).save(tmp_path / "sets" / split / "x" / f"{i}.png")
    assert len(data.load("folder", "train", tmp_path / "sets", size=8)) == 2
    assert len(data.load("folder", "heldout", tmp_path / "sets", size=8)) == 1
    assert data.load("folder", "train", folder).crop == "random"
    assert data.load("folder", "heldout", folder).crop == "center"
    assert data.load("folder", "train", folder, crop="ten", seed=3).seed == 3


def test_a_folder_with_training_images_alone_has_no_heldout_ones(tmp_path):
    (tmp_path / "train" / "x").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "train" / "x" / "0.png")
    assert len(data.load("folder", "train", tmp_path, size=8)) == 1
    with pytest.raises(
        DataError, match="has no heldout images: expected a folder heldout or val beside the folder train"
    ):
        data.load("folder", "heldout", tmp_path, size=8)


def test_classes_of_train_and_val_must_be_the_same(tmp_path):
    for name in ("train/a", "train/b", "train/c", "train/d", "train/e", "val/e", "val/f"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    for split in ("train", "heldout"):
        with pytest.raises(DataError, match="got a, b, c and 1 more only in train, f only in val"):
            data.load("folder", split, tmp_path, size=8)
    for name in "abcd":
        (tmp_path / "val" / name).mkdir()
    with pytest.raises(
        DataError, match="The class folders of .* must be the same; got none only in train, f only in"
    ):
        data.load("folder", "heldout", tmp_path, size=8)


def test_the_fingerprint_knows_names_and_crops(folder):
    first = FolderSet(folder, 16)
    assert first.fingerprint == FolderSet(folder, 16, max_unreadable=0.5).fingerprint
    others = [FolderSet(folder, 16, **o) for o in ({"crop": "random"}, {"seed": 1}, {"resize": 1.5}, {"channels": 1})]
    (folder / "cat" / "b.png").rename(folder / "cat" / "d.png")
    others.append(FolderSet(folder, 16))
    assert len({each.fingerprint for each in (first, *others)}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "middle"}, "Unknown crop 'middle': expected one of center, random, ten"),
        ({"crop": "ten", "views": 3}, "The crop 'ten' has 10 views of an image; got views=3"),
        ({"resize": 0.9}, "and resize of at least 1; got 16, 3 and 0.9"),
        ({"channels": 4}, "1 or 3 channels, .* got 16, 4 and 1.125"),
        ({"crop": "random", "views": 0}, "at least one view, .* views=0"),
        ({"crop": "random", "seed": -1}, "a seed of at least 0, .* seed=-1"),
        ({"max_unreadable": 2}, "max_unreadable=2"),
    ],
)
def test_impossible_options_are_refused(folder, options, message):
    with pytest.raises(DataError, match=message):
        FolderSet(folder, 16, **options)


# Crops ------------------------------------------------------------------------------------------------------------


def opened(scenes, number: int) -> Image.Image:
    return Image.open(scenes / "ab"[number // 12] / f"{number:02d}.jpg").convert("RGB")


def test_center_is_vars_published_preprocessing(scenes):
    published = transforms.Compose(
        [
            transforms.Resize(round(1.125 * 24), interpolation=transforms.InterpolationMode.LANCZOS),
            transforms.CenterCrop((24, 24)),
            transforms.ToTensor(),
            lambda image: image.add(image).add_(-1),
        ]
    )
    images, labels = FolderSet(scenes, 24).batch(slice(None))
    expected = torch.stack([published(opened(scenes, i)) for i in range(24)])
    assert torch.equal(data.to_uint8(images), data.to_uint8(expected))
    assert (images - expected).abs().max() < 1e-6
    assert labels.tolist() == [0] * 12 + [1] * 12


def test_random_crops_are_windows_of_vars_resized_picture_all_equally_likely(scenes):
    pictures = FolderSet(scenes, 24, crop="random")
    for i in (1, 8):  # 30 x 41 and 64 x 64
        resized = np.asarray(transforms.Resize(27, transforms.InterpolationMode.LANCZOS)(opened(scenes, i)))
        windows = np.lib.stride_tricks.sliding_window_view(resized, (24, 24), (0, 1))  # (rows, columns, 3, 24, 24)
        found = []
        for crop in data.to_uint8(pictures.at_view(torch.full((80,), i), torch.arange(80))[0]).numpy():
            (place,) = np.argwhere((windows == crop).all((2, 3, 4)))
            found.append(tuple(place))
        rows, columns = windows.shape[:2]
        assert rows == 4 or columns == 4
        counts = np.bincount([row for row, _ in found], minlength=rows), np.bincount([c for _, c in found])
        assert all(len(count) == total for count, total in zip(counts, (rows, columns)))
        assert all(80 / len(count) / 4 < count.min() <= count.max() < 80 / len(count) * 3 for count in counts)


def test_a_random_crop_depends_on_seed_image_and_view_alone(scenes):
    def crops(seed: int, view: int) -> torch.Tensor:
        return FolderSet(scenes, 8, crop="random", seed=seed, resize=2).at_view(slice(None), view)[0]

    torch.manual_seed(0)
    first = crops(0, 0)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(crops(0, 0), first)
    for other in (crops(0, 1), crops(1, 0)):
        assert (other != first).flatten(1).any(1).sum() > 16
    # the numbers are fixed for good: a cache of tokens or a state may be older than the code
    drawn = np.random.SeedSequence((3, 8, 5)).generate_state(2, np.uint64)
    top, left = (int(n) % (48 - 24 + 1) for n in drawn)
    resized = np.asarray(opened(scenes, 8).resize((48, 48), Image.Resampling.LANCZOS))
    one = FolderSet(scenes, 24, crop="random", seed=3, resize=2).at_view(torch.tensor([8]), 5)[0]
    assert np.array_equal(data.to_uint8(one)[0].permute(1, 2, 0), resized[top : top + 24, left : left + 24])


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """The first half of guided diffusion's center_crop_arr and random_crop_arr."""
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    width, height = round(picture.width * scale), round(picture.height * scale)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def llamagen_square(picture: Image.Image, side: int) -> Image.Image:
    """Guided diffusion's center_crop_arr, written with arrays."""
    pixels = np.array(shrunk(picture, side))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return Image.fromarray(pixels[top : top + side, left : left + side])


@pytest.mark.parametrize("resize", [None, 1.5])
def test_ten_crops_are_llamagens(scenes, resize):
    pictures = FolderSet(scenes, 24, crop="ten", resize=resize)
    assert pictures.views == 10
    side = int(24 * (resize or 1.1))  # LlamaGen rounds down: 281 for 256
    for i in range(6):
        square = llamagen_square(opened(scenes, i), side)
        expected = torch.stack([transforms.ToTensor()(crop) for crop in transforms.TenCrop(24)(square)]) * 2 - 1
        found, labels = pictures.at_view(torch.full((10,), i), torch.arange(10))
        assert torch.equal(data.to_uint8(found), data.to_uint8(expected))
        assert labels.tolist() == [0] * 10
        assert torch.equal(found[5:9].flip(-1), found[[1, 0, 3, 2]])


def test_zoomed_crops_are_llamagens(scenes):
    """Windows of the picture at every size from 24 to 30, as likely mirrored as not (its ``random_crop_arr``)."""
    pictures = FolderSet(scenes, 24, crop="zoom")
    assert pictures.views is None  # a fresh one every epoch
    found = {}
    for i in (1, 4):  # 30 x 41, and 200 x 133, which is halved first
        crops = data.to_uint8(pictures.at_view(torch.full((160,), i), torch.arange(160))[0]).numpy()
        for side in range(24, 31):
            scaled = np.asarray(shrunk(opened(scenes, i), side))
            windows = np.lib.stride_tricks.sliding_window_view(scaled, (24, 24), (0, 1))
            for view, crop in enumerate(crops):
                for mirrored in (False, True):
                    looked_for = crop[..., ::-1] if mirrored else crop
                    if (windows == looked_for).all((2, 3, 4)).any():
                        found[i, view] = side, mirrored
    assert len(found) == 320
    sizes = np.bincount([side - 24 for side, _ in found.values()])
    assert len(sizes) == 7 and sizes.min() > 320 / 7 / 2
    assert 120 < sum(mirrored for _, mirrored in found.values()) < 200


def test_views_take_turns_or_are_fresh_every_epoch(scenes):
    index = torch.tensor([4, 0, 7, 2])
    turns, fresh = (FolderSet(scenes, 8, crop="random", resize=2, views=views) for views in (3, None))
    for epoch in (0, 5):
        assert torch.equal(turns.batch(index, epoch)[0], turns.at_view(index, (index + epoch) % 3)[0])
        assert torch.equal(turns.batch(index, epoch)[0], fresh.at_view(index, (index + epoch) % 3)[0])
        assert torch.equal(fresh.batch(index, epoch)[0], fresh.at_view(index, epoch)[0])
    assert torch.equal(FolderSet(scenes, 8).batch(index, 5)[0], FolderSet(scenes, 8).batch(index, 0)[0])
    with pytest.raises(DataError, match="have 3 views; got 3"):
        turns.at_view(index, 3)
    with pytest.raises(DataError, match="have any number of views; got -1"):
        fresh.at_view(index, -1)


def test_the_short_side_is_resized_before_the_crop(tmp_path):
    (tmp_path / "a").mkdir()
    half = np.zeros((90, 180), dtype=np.uint8)
    half[:, 90:] = 255
    Image.fromarray(half).save(tmp_path / "a" / "half.png")
    pixels = data.to_uint8(FolderSet(tmp_path, 16, 1).batch(slice(None))[0])[0, 0]
    assert pixels[:, :7].max() <= 10  # the edge stays in the middle
    assert pixels[:, 9:].min() >= 245


# Batches ----------------------------------------------------------------------------------------------------------


def test_pictures_do_not_depend_on_batches(scenes):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    whole = FolderSet(scenes, 16, crop="random").batch(order, 3)
    for parts in (7, 1):
        pictures = FolderSet(scenes, 16, crop="random")
        found = [pictures.batch(part, 3) for part in order.split(parts)]
        assert torch.equal(torch.cat([images for images, _ in found]), whole[0])
        assert torch.equal(torch.cat([labels for _, labels in found]), whole[1])


def test_a_picture_that_is_wanted_twice_comes_twice_and_is_decoded_once(scenes, monkeypatch):
    decoded = []
    original = pictures_module.decode
    monkeypatch.setattr(
        pictures_module, "decode", lambda source, channels: decoded.append(source) or original(source, channels)
    )
    pictures = FolderSet(scenes, 16, crop="ten")
    index, view = torch.arange(2).repeat_interleave(10), torch.arange(10).repeat(2)
    together = pictures.at_view(index, view)[0]
    assert len(decoded) == 2
    assert torch.equal(together, torch.cat([pictures.at_view(index[[i]], view[[i]])[0] for i in range(20)]))
    mixed = pictures.at_view(torch.tensor([1, 0, 1, 1]), torch.tensor([3, 0, 2, 3]))[0]
    assert torch.equal(mixed, together[[13, 0, 12, 13]])


# Kinds of pictures --------------------------------------------------------------------------------------------------


def saved(root, picture: Image.Image, name: str, **options) -> np.ndarray:
    """(3, 8, 8) of a picture that went through a file."""
    (root / "a").mkdir(exist_ok=True)
    picture.save(root / "a" / name, **options)
    images, _ = FolderSet(root, 8, resize=1).batch(slice(None))
    (root / "a" / name).unlink()
    return data.to_uint8(images)[0].numpy()


def test_transparent_pictures_lie_on_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0], pixels[:4, :, 3], pixels[4:6, :, 3] = 200, 255, 51  # red: opaque, a fifth, nothing
    expected = np.array([200, 0, 0]), np.array([244, 204, 204]), np.array([255, 255, 255])
    picture = Image.fromarray(pixels)
    for name in ("x.png", "x.webp"):
        found = saved(tmp_path, picture, name, **({"lossless": True} if name == "x.webp" else {}))
        for row, colour in zip((0, 5, 7), expected):
            assert np.abs(found[:, row, 3].astype(int) - colour).max() <= 1
    grey = Image.fromarray(np.stack([pixels[..., 0], pixels[..., 3]], -1), "LA")
    assert saved(tmp_path, grey, "x.png")[:, [0, 7], 3].tolist() == [[200, 255]] * 3
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert saved(tmp_path, palette, "x.png")[:, 0, 0].tolist() == [10, 20, 30]
    assert saved(tmp_path, palette, "x.png", transparency=1)[:, 0, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_ink_and_black_and_white(tmp_path):
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024 + 255
    assert np.array_equal(saved(tmp_path, Image.fromarray(ramp), "x.png"), np.stack([ramp >> 8] * 3))
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan = saved(tmp_path, ink, "x.jpg", quality=100)[:, 4, 4].astype(int)
    assert np.abs(cyan - [0, 255, 255]).max() <= 3
    dots = np.random.default_rng(0).integers(0, 2, (8, 8)).astype(bool)
    assert np.array_equal(saved(tmp_path, Image.fromarray(dots), "x.png")[0], dots * 255)


def test_the_camera_is_not_turned_and_the_first_frame_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to view"
    wide = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8) * 30, 8).reshape(8, 8)).convert("RGB")
    found = saved(tmp_path, wide, "x.jpg", exif=exif, quality=100)
    assert np.abs(found[0].astype(int) - np.asarray(wide)[..., 0]).max() <= 4
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    film = saved(tmp_path, frames[0], "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert film[:, 0, 0].tolist() == [255, 0, 0]


# Unreadable images ------------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def damaged(scenes, tmp_path):
    """The scenes, of which eight cannot be read, the last one among them."""
    tmp_path = tmp_path / "damaged"
    tmp_path.mkdir()
    for number in range(24):
        path = tmp_path / "ab"[number // 12] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((scenes / path.relative_to(tmp_path)).read_bytes())
    whole = (tmp_path / "a" / "04.jpg").read_bytes()
    for number, content in {
        0: whole[: len(whole) // 2],
        3: b"",
        4: b"this is no picture",
        9: bomb(60_000, 60_000),
        11: bomb(2, 60_000),
        12: bomb(8, 8),
        23: b"\xff\xd8\xff\xe0 nothing after the first bytes",
    }.items():
        (tmp_path / "ab"[number // 12] / f"{number:02d}.jpg").write_bytes(content)
    (tmp_path / "a" / "07.jpg").unlink()
    (tmp_path / "a" / "07.jpg").symlink_to(tmp_path / "not there")
    return tmp_path


def test_an_unreadable_image_is_replaced_by_the_next_that_can_be_read(scenes, damaged):
    stands_in = torch.arange(24)
    for number, other in {0: 1, 3: 5, 4: 5, 7: 8, 9: 10, 11: 13, 12: 13, 23: 1}.items():
        stands_in[number] = other
    intact, labels = FolderSet(scenes, 16, crop="random").batch(stands_in, 2)
    orders = [torch.arange(24), torch.arange(23, -1, -1), torch.randperm(24)]
    for order in orders:
        pictures = FolderSet(damaged, 16, crop="random", max_unreadable=0.5)
        for _ in range(2):
            found = [pictures.batch(part, 2) for part in order.split(5)]
            assert torch.equal(torch.cat([images for images, _ in found]), intact[order])
            assert torch.equal(torch.cat([numbers for _, numbers in found]), labels[order])
        assert sorted(pictures.unreadable) == [f"a/{n:02d}.jpg" for n in (0, 3, 4, 7, 9, 11)] + [
            "b/12.jpg",
            "b/23.jpg",
        ]
        assert "truncated" in pictures.unreadable["a/00.jpg"]
        assert pictures.unreadable["a/03.jpg"] == pictures.unreadable["a/04.jpg"] == "not a picture"
        assert "No such file" in pictures.unreadable["a/07.jpg"]
        assert "decompression bomb" in pictures.unreadable["a/09.jpg"]
        assert "2 x 60000 pixels" in pictures.unreadable["a/11.jpg"]
        assert not any("\n" in reason or "\t" in reason for reason in pictures.unreadable.values())


def test_too_many_unreadable_images_stop_with_their_number_share_and_names(damaged):
    pictures = FolderSet(damaged, 16, max_unreadable=0.1)
    pictures.batch(slice(0, 3))
    with pytest.raises(DataError) as caught:
        pictures.batch(slice(3, 12))
    message = str(caught.value)
    assert message.startswith(f"3 of the 24 images in {damaged} cannot be read (12.50%), expected at most 2 ")
    assert "a/00.jpg (" in message
    assert "a/04.jpg (not a picture)" in message
    assert "\n" not in message
    with pytest.raises(DataError, match=r"2 of the 24 images .* at most 1 \(max_unreadable 0.01\)"):
        FolderSet(damaged, 16).batch(slice(None))  # one is always allowed
    with pytest.raises(DataError, match=r"1 of the 24 images .* at most 0 \(max_unreadable 0\)"):
        FolderSet(damaged, 16, max_unreadable=0).batch(slice(0, 1))


def test_where_nothing_can_be_read_there_is_no_next(folder):
    for path in folder.rglob("*.*"):
        path.write_bytes(b"")
    pictures = FolderSet(folder, 16, max_unreadable=1.0)
    for _ in range(2):
        with pytest.raises(DataError, match="None of the 3 images in .* can be read"):
            pictures.batch(slice(None))


def test_running_out_of_memory_is_no_fault_of_the_picture(folder, monkeypatch):
    def full(source, channels):
        raise MemoryError

    monkeypatch.setattr(pictures_module, "decode", full)
    pictures = FolderSet(folder, 16)
    with pytest.raises(MemoryError):
        pictures.batch(slice(0, 1))
    assert not pictures.unreadable


# Training ---------------------------------------------------------------------------------------------------------

TINY = TrainConfig(epochs=2, batch_size=8, base_lr=0.02, clip=1.0, log_every=1, checkpoint_every=2)  # 6 steps


def fit(pictures, out, config=TINY, say=False):
    torch.manual_seed(0)
    task = training.TokenizerTask(VQVAE(tokenizer_config()), pictures)
    return task, training.fit(task, config, out, progress=say)


class StoppingFolder(Stopping, FolderSet):
    """A folder that breaks off."""


def losses(out) -> list[float]:
    return [entry["loss"] for entry in training.read_log(out / "metrics.jsonl")]


def test_a_run_stopped_inside_an_epoch_goes_on_bit_for_bit(damaged, tmp_path):
    options = {"size": 16, "channels": 1, "crop": "random", "max_unreadable": 0.5}
    whole, _ = fit(FolderSet(damaged, **options), tmp_path / "whole")
    stopped = StoppingFolder(damaged, **options)
    stopped.left = 6  # five steps, of three an epoch, and the pictures at the first checkpoint
    with pytest.raises(Interrupted):
        fit(stopped, tmp_path / "parts")
    assert len(losses(tmp_path / "parts")) == 5
    resumed, told = fit(FolderSet(damaged, **options), tmp_path / "parts")
    assert told["resumed_at"] == 4
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(one, other)
    assert (tmp_path / "parts" / "unreadable.txt").read_text() == (tmp_path / "whole" / "unreadable.txt").read_text()
    assert len(set(losses(tmp_path / "whole"))) == 6


def test_the_loop_asks_for_each_batch_once_and_for_none_beyond_the_end(scenes, tmp_path):
    asked, decoded = [], []
    original = FolderSet._read

    class Watched(FolderSet):
        def batch(self, index, epoch=0):
            asked.append((index.tolist(), epoch))
            return super().batch(index, epoch)

        def _read(self, number, views):
            decoded.append((number, views))
            return original(self, number, views)

    class Task(training.TokenizerTask):
        def pictures(self, device):
            return torch.zeros(1, 1, 1, 16, 16)

    config = dataclasses.replace(TINY, accumulate=2)
    training.fit(
        Task(VQVAE(tokenizer_config()), Watched(scenes, 16, 1, crop="random")), config, tmp_path, progress=False
    )
    expected = [training.batch_indices(step, 24, config).tolist() for step in range(6)]
    assert [(a + b, e) for (a, e), (b, _) in zip(asked[::2], asked[1::2])] == [
        (index, step // 3) for step, index in enumerate(expected)
    ]
    wanted = [(image, (step // 3,)) for step, index in enumerate(expected) for image in index]
    assert sorted(decoded) == sorted(wanted)


def test_unreadable_images_are_listed_beside_the_run(damaged, tmp_path, capsys):
    pictures = FolderSet(damaged, 16, 1, max_unreadable=0.5)
    fit(pictures, tmp_path / "run", say=True)
    path = tmp_path / "run" / "unreadable.txt"
    lines = path.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == sorted(pictures.unreadable)
    assert dict(line.split("\t") for line in lines) == pictures.unreadable
    said = [line for line in capsys.readouterr().out.splitlines() if "could not be read" in line]
    assert said == [f"Images that could not be read and were replaced by the next ones: 8, listed in {path}."]


def test_nothing_is_listed_where_everything_could_be_read(scenes, tmp_path):
    pictures_module.write_unreadable(FolderSet(scenes, 16), tmp_path, Ranks(), say=True)
    pictures_module.write_unreadable(data.load("digits", "heldout"), tmp_path, Ranks(), say=True)
    assert list(tmp_path.iterdir()) == []


class Together(Ranks):
    """Two ranks played by two threads: each sees what both hand in."""

    meeting = threading.Barrier(2)
    handed: dict = {}

    def gather(self, value):
        self.handed[self.rank] = value
        self.meeting.wait(10)
        return [self.handed[rank] for rank in range(2)]


def test_the_list_holds_what_all_ranks_met_before_and_after_a_restart(tmp_path):
    class Met:
        def __init__(self, **unreadable):
            self.unreadable = unreadable

    pictures_module.write_unreadable(Met(c="before the restart", a="old"), tmp_path, Ranks())
    ranks = [Together(rank=rank, count=2) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        met = Met(b="leading"), Met(a="new", d="followed")
        for future in [pool.submit(pictures_module.write_unreadable, m, tmp_path, r) for m, r in zip(met, ranks)]:
            future.result()
    text = (tmp_path / "unreadable.txt").read_text()
    assert text == "a\told\nb\tleading\nc\tbefore the restart\nd\tfollowed\n"
