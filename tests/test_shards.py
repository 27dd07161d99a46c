"""Tar shards: the same pictures as from a folder, read shard by shard, and what can be wrong with them."""

import builtins
import contextlib
import io
import json
import pickle
import tarfile

import pytest
import torch
from conftest import Interrupted, Stopping, tokenizer_config
from PIL import Image

from minivar import data, training
from minivar.data import DataError, shards
from minivar.data.folders import FolderSet
from minivar.data.shards import ShardSet, write_shards
from minivar.tokenizer import VQVAE

COUNT = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of pictures of several kinds and sizes, one of them unreadable."""
    root = tmp_path_factory.mktemp("folder")
    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        path = root / ("ant", "bee", "cat")[number % 3] / f"{number:02d}.{('jpg', 'png', 'JPEG', 'webp')[number % 4]}"
        path.parent.mkdir(exist_ok=True)
        pixels = torch.randint(0, 256, (20 + number, 30, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    (root / "bee" / "01.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def written(folder, tmp_path):
    """Six shards of four samples, the last of three, in the order of the folder."""
    write_shards(folder, tmp_path / "shards", per_shard=4, seed=None)
    return tmp_path / "shards"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the shards that are opened, in order."""
    import webdataset

    names, original = [], webdataset.gopen
    monkeypatch.setattr(
        webdataset, "gopen", lambda url, *a, **k: names.append(shards.base_name(url)) or original(url)
    )
    return names


def name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def add(path, files: dict[str, bytes]) -> None:
    """Write a tar file with ``files``."""
    with tarfile.open(path, "w") as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        return file.getvalue()


# The same pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"crop": "center"}, {"crop": "random", "seed": 4}, {"crop": "ten"}])
def test_shards_hold_the_pictures_of_the_folder_pixel_for_pixel(folder, written, options):
    files, tars = FolderSet(folder, 16, **options), ShardSet(written, 16, window=2, **options)
    assert len(tars) == COUNT
    assert tars.image_shape == (3, 16, 16)
    assert tars.class_names == ("ant", "bee", "cat")
    assert tars.views == files.views
    assert tars.labels is None
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    for epoch in (0, 3):
        for one, other in zip(files.batch(order, epoch), tars.batch(order, epoch)):
            assert torch.equal(one, other)
    for one, other in zip(files.at_view(slice(0, 9), 0), tars.at_view(slice(0, 9), 0)):
        assert torch.equal(one, other)
    assert files.unreadable == {"bee/01.png": "not a picture"}
    assert tars.unreadable == {f"{name(2)}/00000008.png": "not a picture"}


def test_written_shards_are_permuted_and_complete(folder, tmp_path):
    write_shards(FolderSet(folder, 16), tmp_path, per_shard=10, seed=3)
    assert json.loads((tmp_path / "sizes.json").read_text()) == {name(0): 10, name(1): 10, name(2): 3}
    assert (tmp_path / "classes.txt").read_text() == "ant\nbee\ncat"
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    files = FolderSet(folder, 16)
    intact = order != files.files.index("bee/01.png")  # for which another next one stands in
    for one, other in zip(ShardSet(tmp_path, 16).batch(slice(None)), files.batch(order)):
        assert torch.equal(one[intact], other[intact])
    with tarfile.open(tmp_path / name(0)) as tar:
        assert tar.getnames()[:2] == ["00000000.cls", f"00000000.{files.files[order[0]].lower().rpartition('.')[2]}"]
    with pytest.raises(DataError, match="has tar files already: expected a folder without"):
        write_shards(folder, tmp_path)
    with pytest.raises(DataError, match="from a folder, a FolderSet or an ArraySet; got ShardSet"):
        write_shards(ShardSet(tmp_path, 16), tmp_path / "copy")


def test_arrays_are_written_without_loss(tmp_path):
    digits = data.load("digits", "heldout")
    few = data.ArraySet(digits.images[:30], digits.labels[:30], digits.class_names)
    out = tmp_path / "100 % digits"
    write_shards(few, out, per_shard=12, seed=None)
    images, labels = ShardSet(out, 28, 1, resize=1).batch(slice(None))
    assert torch.equal(data.to_uint8(images), few.images)
    assert torch.equal(labels, few.labels)


def test_load_finds_the_shards_of_a_split(folder, tmp_path):
    for split, seed in (("train", 0), ("val", None)):
        write_shards(folder, tmp_path / split, per_shard=8, seed=seed)
    training, heldout = (data.load("shards", split, tmp_path, size=16) for split in ("train", "heldout"))
    assert (training.crop, heldout.crop) == ("random", "center")
    assert training.fingerprint != heldout.fingerprint
    assert torch.equal(heldout.batch(slice(None))[0], FolderSet(folder, 16).batch(slice(None))[0])
    flat = data.load("shards", "train", tmp_path / "val", size=16, window=1, crop="ten")
    assert (flat.views, flat.shards[0]) == (10, str(tmp_path / "val" / name(0)))
    pattern = data.load("shards", "heldout", f"{tmp_path}/val/shard-{{000000..000001}}.tar", size=16)
    assert len(pattern) == 16
    assert pattern.class_names == ("ant", "bee", "cat")


def test_commands_are_shards_too(folder, written):
    sizes = json.loads((written / "sizes.json").read_text())
    source = [f"pipe:cat '{written}/{name(i)}'" for i in range(6)]
    sizes = {f"{shard}'": count for shard, count in sizes.items()}  # what comes after the last slash
    for given in (sizes, dict(zip(source, sizes.values()))):
        tars = ShardSet(source, 16, sizes=given, num_classes=3)
        assert torch.equal(tars.batch(slice(None))[0], FolderSet(folder, 16).batch(slice(None))[0])
    assert tars.class_names == ("0", "1", "2")
    with pytest.raises(DataError, match="Expected sizes: a dict, or a JSON file"):
        ShardSet(source, 16, num_classes=3)
    with pytest.raises(DataError, match="need num_classes, or a classes.txt beside them"):
        ShardSet(source, 16, sizes=sizes)
    failing = ShardSet([f"pipe:cat {written}/{name(0)}; exit 3"], 16, sizes={f"{name(0)}; exit 3": 4}, num_classes=3)
    with pytest.raises(
        DataError, match="Cannot read the shard pipe:cat .*: expected a whole tar file, got exit 3 of the"
    ):
        failing.batch(slice(None))


def test_shards_that_were_never_counted_are_counted_once(written, opened):
    (written / "sizes.json").unlink()
    (written / "classes.txt").unlink()
    first = ShardSet(written, 16)
    assert opened == [name(i) for i in range(6)]
    assert first.class_names == ("0", "1", "2")
    opened.clear()
    again = ShardSet(written, 16)
    assert opened == [f"{'sizes.json'}"]
    assert (len(again), again.class_names, again.fingerprint) == (COUNT, first.class_names, first.fingerprint)


# In which order -----------------------------------------------------------------------------------------------------


def test_the_order_is_a_permutation_window_by_window():
    counts = (4, 7, 1, 5, 6, 3, 8)
    shard_of = torch.arange(7).repeat_interleave(torch.tensor(counts))
    orders = []
    for seed in (0, 0, 1):
        order = shards.window_order(counts, 3, 34, generator=torch.Generator().manual_seed(seed))
        assert order.sort().values.tolist() == list(range(34))
        visits = shard_of[order].tolist()
        windows, begin = [], 0
        for _ in range(3):
            together = set(visits[begin : begin + 1])
            end = begin
            while end < 34 and (visits[end] in together or len(together) < 3):
                together.add(visits[end])
                end += 1
            windows.append(together)
            begin = end
        assert begin == 34
        assert sorted(map(len, windows)) == [1, 3, 3]
        orders.append(order)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    mixed = shard_of[shards.window_order(counts, 7, 34, generator=torch.Generator().manual_seed(0))]
    assert (mixed.diff() != 0).sum() > 17  # within a window images are permuted, not shards


@pytest.mark.parametrize("window", [1, 2, 6])
def test_each_shard_is_read_once_an_epoch(written, opened, window):
    tars = ShardSet(written, 16, window=window)
    opened.clear()
    for epoch in range(2):
        order = tars.order(COUNT, generator=torch.Generator().manual_seed(epoch))
        for part in order.split(5):
            tars.batch(part, epoch)
        if window < 6:
            assert len(opened) <= 6  # those of the last window may still be in memory
            assert set(opened) >= {name(i) for i in range(6)} if epoch == 0 else opened
            opened.clear()
    if window == 6:
        assert sorted(opened) == [name(i) for i in range(6)]  # all fit


def test_local_shards_stay_where_they_are_and_others_are_held(written):
    local = shards.read_shard(str(written / name(0)))
    piped = shards.read_shard(f"pipe:cat '{written / name(0)}'")
    assert [(bytes(sample.picture), sample.label) for sample in local] == [sample[1:] for sample in piped]
    assert all(type(sample.picture) is memoryview and sample.picture.readonly for sample in local)
    assert all(type(sample.picture) is bytes for sample in piped)


def test_worker_processes_read_shards_for_themselves(folder, written):
    tars = ShardSet(written, 16, crop="random", window=2)
    expected = tars.at_view(torch.arange(COUNT), 3)
    assert tars._held
    assert not pickle.loads(pickle.dumps(tars))._held
    asked = [(index, torch.full_like(index, 3)) for index in torch.arange(COUNT).split(5)]
    again = ShardSet(written, 16, crop="random", window=2)
    with contextlib.closing(data.Feed(again, asked, workers=2)) as feed:
        _, images, labels = zip(*feed)
    assert torch.equal(torch.cat(images), expected[0])
    assert torch.equal(torch.cat(labels), expected[1])
    assert again.unreadable == tars.unreadable == {f"{name(2)}/00000008.png": "not a picture"}
    piped = ShardSet([f"pipe:cat '{written / name(0)}'"], 16, sizes={f"{name(0)}'": 4}, num_classes=3)
    assert (tars.most_workers, piped.most_workers) == (8, 1)


def test_training_reads_shard_by_shard_and_resumes(folder, tmp_path_factory, opened):
    root, out = tmp_path_factory.mktemp("tars"), tmp_path_factory.mktemp("run")
    write_shards(folder, root, per_shard=4)
    config = training.TrainConfig(epochs=2, batch_size=4, base_lr=0.02, clip=1.0, log_every=1, checkpoint_every=5)

    class StoppingShards(Stopping, ShardSet):
        """Shards that break off."""

    def fit(out, left=float("inf")):
        torch.manual_seed(0)
        tars = StoppingShards(root, 16, 1, window=2, crop="random")
        tars.left = left
        opened.clear()
        task = training.TokenizerTask(VQVAE(tokenizer_config()), tars)
        training.fit(task, config, out, progress=False)
        return [entry["loss"] for entry in training.read_log(out / "metrics.jsonl")]

    whole = fit(out / "whole")
    assert len(set(whole)) == 10
    with pytest.raises(Interrupted):
        fit(out / "parts", left=8)
    assert fit(out / "parts") == whole
    listed = (out / "whole" / "unreadable.txt").read_text()
    assert listed.count("\n") == 1
    assert (out / "parts" / "unreadable.txt").read_text() == listed


# What can be wrong --------------------------------------------------------------------------------------------------


def test_a_shard_that_is_cut_short_is_named(written):
    path = written / name(2)
    whole = path.read_bytes()
    for size in (0, 300, 700, 5000, len(whole) // 2, len(whole) - 10240):
        path.write_bytes(whole[:size])
        tars = ShardSet(written, 16)
        tars.batch(slice(0, 8))  # the others are whole
        with pytest.raises(DataError, match=f"{path}") as caught:
            tars.batch(slice(8, 12))
        assert "\n" not in str(caught.value)
        assert " object at " not in str(caught.value)
    (written / "sizes.json").unlink()
    with pytest.raises(DataError, match=f"Cannot read the shard {path}: expected a whole tar file, got"):
        ShardSet(written, 16)


def test_a_shard_that_is_damaged_in_the_middle_is_named(written, tmp_path):
    path, big = written / name(2), {}
    for i in range(40):
        big |= {f"{i}.png": png(), f"{i}.cls": b"0"}
    add(path, big)
    (written / "sizes.json").unlink()
    content = bytearray(path.read_bytes())
    content[1024 : 1024 + 512] = b"\xa5" * 512  # where a header was
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"Cannot read the shard {path}: .* got a broken header in the middle"):
        ShardSet(written, 16)


def test_a_shard_of_another_size_is_named(written):
    sizes = json.loads((written / "sizes.json").read_text())
    (written / "sizes.json").write_text(json.dumps({**sizes, name(1): 5}))
    with pytest.raises(DataError, match=f"The shard .*{name(1)} has 4 samples, expected 5"):
        ShardSet(written, 16).batch(torch.tensor([5]))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.png": b"1"}, r"The sample x of the shard .* needs one picture and a .cls; got .png"),
        ({"x.png": b"1", "x.jpg": b"2", "x.cls": b"0"}, "needs one picture and a .cls; got .png, .jpg, .cls"),
        ({"x.cls": b"0", "x.txt": b"a"}, "needs one picture and a .cls; got .cls, .txt"),
        ({"x.png": b"1", "x.cls": b"tench"}, "The .cls of the sample x of the shard .* is no number: b'tench'"),
        ({"x.png": b"1", "x.cls": b"7"}, r"has a sample of class 7 \(.*/x.png\), expected 0 to 2"),
        ({"x.png": b"1", "x.PNG": b"2"}, "Cannot read the shard .* duplicate file name"),
    ],
)
def test_a_sample_without_what_it_needs_is_named(tmp_path, files, message):
    add(tmp_path / name(0), files)
    (tmp_path / "sizes.json").write_text(json.dumps({name(0): 1}))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    tars = ShardSet(tmp_path, 16)
    assert tars.class_names == ("a", "b", "c")
    with pytest.raises(DataError, match=message):
        tars.batch(slice(None))


def test_shards_that_are_not_there_are_named(tmp_path, written):
    for source, got in ((tmp_path / "nowhere", "nowhere is no file"), (tmp_path, "none"), ([], "none")):
        with pytest.raises(
            DataError, match=rf"No tar shards at .*: expected a folder with \*.tar files.* got .*{got}"
        ):
            ShardSet(source, 16)
    with pytest.raises(DataError, match="No tar shards at .*nowhere"):
        data.load("shards", "train", tmp_path / "nowhere")
    for text, got in (
        ("[1", "Expecting"),
        ('{"x": 1}', "say None of the shard"),
        (json.dumps({name(0): -1}), "The sizes say -1 of the shard"),
    ):
        (written / "sizes.json").write_text(text)
        with pytest.raises(DataError, match=got):
            ShardSet(written, 16)
    with pytest.raises(DataError, match="at least one shard; got 0"):
        ShardSet(written, 16, window=0)
    add(tmp_path / name(0), {})
    with pytest.raises(DataError, match="are empty: expected pictures, got 1 shards"):
        ShardSet(tmp_path, 16)


def test_without_webdataset_a_sentence_says_what_to_install(written, monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **keywords):
        if name.partition(".")[0] == "webdataset":
            raise ModuleNotFoundError(name)
        return original(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"Tar shards need the package webdataset: pip install 'minivar\[scale\]'"):
        ShardSet(written, 16)
