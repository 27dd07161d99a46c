"""Token caches: what is written, that training from them is training from pixels, and every way they can go wrong."""

import json
import resource
import signal
import time
import tracemalloc
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image
from test_raster_training import SINGLE, gpt_config
from test_train import blobs, log_of, tiny_preset
from torch.utils.flop_counter import FlopCounterMode

from minivar import checkpoints, cli, files, training
from minivar.checkpoints import CheckpointError
from minivar.data import pictures as pictures_module
from minivar.data.folders import FolderSet
from minivar.distributed import Ranks
from minivar.files import weights_fingerprint
from minivar.models import GPT, VAR
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, caches
from minivar.tokenizer.caches import CacheError, TokenCache, write_cache
from minivar.training import TrainingError

QUIET = {"progress": False}


def picture_folder(root: Path, count: int = 33) -> Path:
    """Pictures of five classes, 24 x 20 grey pixels each: ``blobs`` in frames that leave room to crop."""
    random, images = np.random.RandomState(0), blobs(count)
    for i, (image, label) in enumerate(zip(images.images.numpy(), images.labels.tolist())):
        frame = random.randint(0, 255, (24, 20), dtype=np.uint8)
        frame[4:20, 2:18] = image[0]
        (root / "abcde"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(root / "abcde"[label] / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("pictures"))


def folder_set(root: Path, crop: str = "random", views: int | None = 2) -> FolderSet:
    return FolderSet(root, 16, channels=1, crop=crop, views=views)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is written --------------------------------------------------------------------------------------------------


def test_a_cache_holds_the_tokens_and_labels_of_every_image_in_order(tokenizer, tmp_path):
    images = blobs()
    assert write_cache(tokenizer, images, tmp_path, shard_size=40, batch_size=7, **QUIET)
    kinds = {"tokens": "npy", "labels": "npy", "shard": "json"}
    names = {f"{kind}-{number:05d}.{end}" for kind, end in kinds.items() for number in range(3)}
    assert {path.name for path in tmp_path.iterdir()} == names | {"cache.json"}
    tokens = [np.load(tmp_path / f"tokens-0000{i}.npy") for i in range(3)]
    assert [part.shape for part in tokens] == [(40, 1, 21), (40, 1, 21), (16, 1, 21)]
    assert all(part.dtype == np.uint16 for part in tokens)
    expected = torch.cat(tokenizer.encode(images.batch(slice(None))[0]), dim=1)
    assert np.array_equal(np.concatenate(tokens)[:, 0], expected.numpy())
    cache = TokenCache(tmp_path)
    assert len(cache) == 96
    assert cache.views == 1
    assert cache.class_names == images.class_names
    assert torch.equal(cache.labels, images.labels)
    index = torch.tensor([95, 0, 40, 39, 80, 0])
    for epoch in (0, 3):
        got, labels = cache.tokens(index, epoch)
        assert got.dtype == labels.dtype == torch.int64
        assert torch.equal(got, expected[index])
        assert torch.equal(labels, images.labels[index])


def test_the_index_says_whose_tokens_they_are(tokenizer, tmp_path):
    images = blobs()
    write_cache(tokenizer, images, tmp_path, shard_size=50, **QUIET)
    index = json.loads((tmp_path / "cache.json").read_text())
    assert index["tokenizer"] == weights_fingerprint(tokenizer)
    assert (index["dataset"], index["dataset_fingerprint"]) == ("ArraySet", images.fingerprint)
    assert (index["images"], index["views"], index["codebook_size"]) == (96, 1, 16)
    assert index["grids"] == [[1, 1], [2, 2], [4, 4]]
    assert index["class_names"] == list("abcde")
    assert [sorted(shard) for shard in index["shards"]] == [["labels", "tokens"]] * 2


def test_more_codes_than_two_bytes_can_number_are_kept(tmp_path):
    tokenizer = wake(VQVAE(tokenizer_config(codebook_size=70_000)))
    write_cache(tokenizer, blobs(20), tmp_path, **QUIET)
    tokens = np.load(tmp_path / "tokens-00000.npy")
    assert tokens.dtype == np.int32
    assert tokens.max() > 2**16
    expected = caches.encode(tokenizer, blobs(20).batch(slice(None))[0])
    assert torch.equal(TokenCache(tmp_path).tokens(torch.arange(20))[0], expected)


def test_a_tokenizer_of_one_grid_has_one_grid(tmp_path):
    for name, size in (("fixed", 16), ("any", None)):
        config = tokenizer_config(quantizer="single", schedule=None, image_size=size)
        tokenizer = wake(VQVAE(config))
        write_cache(tokenizer, blobs(8), tmp_path / name, **QUIET)
        cache = TokenCache(tmp_path / name)
        assert cache.contents.grids == ((4, 4),)
        assert cache.tokens(torch.arange(3))[0].shape == (3, 16)
        cache.check(tokenizer, gpt_config())
        with pytest.raises(CacheError, match=r"is \(\(\(4, 4\),\), 16, .*; expected \(\(\(8, 8\),\), 16, "):
            cache.check(tokenizer, gpt_config(grid=(8, 8)))


@pytest.mark.parametrize(("crop", "views"), [("random", 2), ("ten", None), ("center", None)])
def test_a_cache_serves_the_crop_whose_turn_it_is(tokenizer, pictures, tmp_path, crop, views):
    images = folder_set(pictures, crop, views)
    write_cache(tokenizer, images, tmp_path, shard_size=15, batch_size=4, **QUIET)
    cache, index = TokenCache(tmp_path), torch.tensor([32, 3, 15, 14, 0])
    assert cache.views == images.views
    served = []
    for epoch in range(3):
        batch, labels = images.batch(index, epoch)
        tokens, cached_labels = cache.tokens(index, epoch)
        assert torch.equal(tokens, caches.encode(tokenizer, batch))
        assert torch.equal(cached_labels, labels)
        served.append(tokens)
    assert torch.equal(served[0], served[1]) == (crop == "center")


def test_views_that_a_dataset_does_not_count_can_be_asked_for(tokenizer, pictures, tmp_path):
    endless = folder_set(pictures, "random", None)  # a fresh crop every epoch
    write_cache(tokenizer, endless, tmp_path / "endless", views=3, **QUIET)
    write_cache(tokenizer, folder_set(pictures, "random", 3), tmp_path / "three", **QUIET)
    index = torch.arange(33)
    for epoch in range(4):
        one, other = (TokenCache(tmp_path / name).tokens(index, epoch)[0] for name in ("endless", "three"))
        assert torch.equal(one, other)
    with pytest.raises(CacheError, match="fresh crop of each image in every epoch: say how many views to store"):
        write_cache(tokenizer, endless, tmp_path / "none", **QUIET)


def test_the_size_of_the_batches_does_not_matter_but_for_rounding(tokenizer, pictures, tmp_path):
    tokens = []
    for size in (1, 5, 64):
        write_cache(tokenizer, folder_set(pictures), tmp_path / str(size), batch_size=size, **QUIET)
        tokens.append(np.load(tmp_path / str(size) / "tokens-00000.npy"))
    assert (tokens[0] == tokens[1]).mean() > 0.99
    assert (tokens[0] == tokens[2]).mean() > 0.99


def test_opening_a_cache_does_not_load_it(tokenizer, tmp_path):
    write_cache(tokenizer, blobs(96), tmp_path, shard_size=10_000, **QUIET)
    path = tmp_path / "tokens-00000.npy"
    index = json.loads((tmp_path / "cache.json").read_text())
    np.save(path, np.zeros((96, 5000, 21), np.uint16))  # 20 MB, as if there were 5,000 views
    index |= {"views": 5000}
    index["shards"][0]["tokens"] = files.sha256(path)
    (tmp_path / "cache.json").write_text(json.dumps(index))
    tracemalloc.start()
    cache = TokenCache(tmp_path)
    cache.tokens(torch.arange(16), 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 3e6
    with pytest.raises(ValueError, match="read-only"):
        cache.shards[0][0, 0, 0] = 1


# Whose cache it is ------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_a_tokenizer_is_that_of_its_weights(tokenizer, tmp_path):
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    fingerprint = weights_fingerprint(tokenizer)
    loaded, _ = checkpoints.load(tmp_path / "tokenizer.safetensors")
    loaded.quantizer.usage_KV += 1
    assert weights_fingerprint(loaded) == fingerprint
    loaded.encoder.conv_in.bias.data[0] += 1e-6
    assert weights_fingerprint(loaded) != fingerprint
    assert weights_fingerprint(wake(VQVAE(tokenizer_config(phi_ratio=0.4)))) != fingerprint


def test_a_cache_of_another_tokenizer_is_refused(tokenizer, tmp_path):
    write_cache(tokenizer, blobs(), tmp_path, **QUIET)
    other = wake(VQVAE(tokenizer_config()), seed=1)
    theirs, ours = (weights_fingerprint(each)[:12] for each in (tokenizer, other))
    words = rf"not for this tokenizer and model: .* 16, '{theirs}'\) there; expected .* 16, '{ours}'\)\."
    with pytest.raises(CacheError, match=words) as caught:
        training.VARTask(VAR(var_config()), other, TokenCache(tmp_path))
    assert "\n" not in str(caught.value)
    larger = wake(VQVAE(tokenizer_config(codebook_size=32)))
    with pytest.raises(CacheError, match=r"\(\(\(1, 1\), .*\), 16, .* there; expected .*, 32, "):
        training.VARTask(VAR(var_config(codebook_size=32)), larger, TokenCache(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": wake(VQVAE(tokenizer_config()), seed=1)}, r"\(tokenizer: '"),
        ({"dataset": blobs(95)}, r"\(images: 96 there, 95 asked for; dataset_fingerprint: \d+ there, "),
        ({"views": 2}, r"\(views: 1 there, 2 asked for\)"),
        ({"shard_size": 20}, r"\(shard_size: 40 there, 20 asked for\)"),
    ],
)
def test_a_folder_with_another_cache_is_left_alone(tokenizer, tmp_path, change, words):
    given = {"tokenizer": tokenizer, "dataset": blobs(), "out": tmp_path, "shard_size": 40, **QUIET}
    write_cache(**given)
    before = contents_of(tmp_path)
    with pytest.raises(CacheError, match="holds another token cache " + words):
        write_cache(**(given | change))
    assert contents_of(tmp_path) == before


def test_shards_of_a_cache_whose_index_was_deleted_are_not_taken_for_another_ones(tokenizer, tmp_path):
    other = wake(VQVAE(tokenizer_config()), seed=1)
    write_cache(other, blobs(), tmp_path / "mixed", shard_size=40, **QUIET)
    (tmp_path / "mixed" / "cache.json").unlink()
    for name in ("mixed", "clean"):
        write_cache(tokenizer, blobs(), tmp_path / name, shard_size=40, **QUIET)
    assert contents_of(tmp_path / "mixed") == contents_of(tmp_path / "clean")


def test_images_of_another_size_are_refused_before_anything_is_written(tmp_path):
    tokenizer = wake(VQVAE(tokenizer_config(image_size=32, schedule=ScaleSchedule((1, 2, 8)))))
    with pytest.raises(ValueError, match=r"expects images of shape \(B, 1, 32, 32\); got \(1, 1, 16, 16\)"):
        write_cache(tokenizer, blobs(), tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_cache_that_is_not_there_not_finished_or_of_another_format_is_refused(tokenizer, tmp_path):
    with pytest.raises(CacheError, match=f"No token cache at {tmp_path}: expected a folder that minivar tokenize"):
        TokenCache(tmp_path)
    assert not write_cache(tokenizer, blobs(), tmp_path, shard_size=40, ranks=Ranks(rank=1, count=2), **QUIET)
    with pytest.raises(CacheError, match="is not finished: run minivar tokenize again as before"):
        TokenCache(tmp_path)
    index = json.loads((tmp_path / "cache.json").read_text())
    (tmp_path / "cache.json").write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(CacheError, match=r"cache\.json has format 2; expected 1"):
        TokenCache(tmp_path)
    for damaged in ("{", json.dumps({**index, "view": 1}), json.dumps({"format": 1, "images": 3})):
        (tmp_path / "cache.json").write_text(damaged)
        with pytest.raises(CacheError, match=r"cache\.json is damaged .*: delete it and run minivar tokenize again"):
            TokenCache(tmp_path)


@pytest.mark.parametrize("sizes", [{"views": 0}, {"shard_size": 0}, {"batch_size": -1}])
def test_impossible_sizes_are_refused(tokenizer, tmp_path, sizes):
    with pytest.raises(CacheError, match="Views, shard and batch size must be at least 1; got "):
        write_cache(tokenizer, blobs(), tmp_path / "out", **sizes, **QUIET)
    assert not (tmp_path / "out").exists()


# Damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["tokens", "labels"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, r"its SHA-256 is not the one in cache\.json"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "."),
        (lambda path: path.write_bytes(b""), "."),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: np.save(path, np.zeros(3)), r"it holds \(3,\) float64, expected \(40,"),
    ],
    ids=["flipped", "cut", "empty", "deleted", "another"],
)
def test_a_damaged_shard_is_named_and_written_anew(tokenizer, tmp_path, kind, harm, words):
    given = {"tokenizer": tokenizer, "dataset": blobs(), "out": tmp_path, "shard_size": 40, **QUIET}
    write_cache(**given)
    before = contents_of(tmp_path)
    path = tmp_path / f"{kind}-00001.npy"
    harm(path)
    expected = rf"{path} is damaged \(.*{words}.*\): run minivar tokenize again as before, which writes it anew\."
    with pytest.raises(CacheError, match=expected) as caught:
        TokenCache(tmp_path)
    assert "\n" not in str(caught.value)
    assert write_cache(**given)
    assert contents_of(tmp_path) == before
    TokenCache(tmp_path)


def test_checksums_are_compared_unless_told_not_to_and_each_process_takes_its_part(tokenizer, tmp_path):
    write_cache(tokenizer, blobs(), tmp_path, shard_size=40, **QUIET)
    flip(tmp_path / "tokens-00001.npy")
    TokenCache(tmp_path, verify=False)
    TokenCache(tmp_path, ranks=Ranks(rank=0, count=2))
    with pytest.raises(CacheError, match="tokens-00001"):
        TokenCache(tmp_path, ranks=Ranks(rank=1, count=2))


def test_images_that_cannot_be_read_are_listed(tokenizer, tmp_path):
    root = picture_folder(tmp_path / "pictures")
    broken = sorted(root.rglob("*.png"))[17]
    broken.write_bytes(b"not a picture")
    images = folder_set(root)
    write_cache(tokenizer, images, tmp_path / "cache", shard_size=10, **QUIET)
    cache = TokenCache(tmp_path / "cache")
    assert cache.unreadable == {f"{broken.parent.name}/{broken.name}": "not a picture"}
    index = torch.arange(33)
    for epoch in range(2):
        batch, labels = images.batch(index, epoch)
        tokens, cached_labels = cache.tokens(index, epoch)
        assert torch.equal(tokens, caches.encode(tokenizer, batch))
        assert torch.equal(cached_labels, labels)


# Stopped, killed, disk full, several processes --------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_work_without_a_word(tokenizer, pictures, tmp_path, order):
    images = folder_set(pictures)
    write_cache(tokenizer, images, tmp_path / "one", shard_size=5, **QUIET)
    whole = [
        write_cache(tokenizer, images, tmp_path / "many", shard_size=5, ranks=Ranks(rank=r, count=3), **QUIET)
        for r in order
    ]
    assert whole == [False, False, True]
    assert contents_of(tmp_path / "many") == contents_of(tmp_path / "one")


class Stop(Exception):
    """Raised in the middle of the work."""


@pytest.mark.parametrize("batches", [1, 4, 9])
def test_whole_shards_are_not_tokenised_again(tokenizer, tmp_path, monkeypatch, batches):
    calls = []
    original = caches.encode

    def counted(tokenizer, images):
        if len(calls) == batches:
            raise Stop
        calls.append(len(images))
        return original(tokenizer, images)

    given = {"tokenizer": tokenizer, "dataset": blobs(), "shard_size": 16, "batch_size": 8, **QUIET}
    monkeypatch.setattr(caches, "encode", counted)
    with pytest.raises(Stop):
        write_cache(out=tmp_path / "stopped", **given)
    kept = len(list((tmp_path / "stopped").glob("shard-*")))
    assert kept == (batches - 1) // 2
    (tmp_path / "stopped" / f".tokens-{kept:05d}.npy.abc").write_bytes(b"left by a kill")
    calls, batches = [], 1000
    write_cache(out=tmp_path / "stopped", **given)
    assert sum(calls[1:]) == 96 - 16 * kept  # the first call finds out how many tokens there are
    write_cache(out=tmp_path / "whole", **given)
    assert contents_of(tmp_path / "stopped") == contents_of(tmp_path / "whole")


TOKENIZE = ("tokenize", "--split", "heldout", "--shard-size", "250", "--out")  # digits, by the shipped tokenizer


@pytest.fixture(scope="module")
def heldout_cache(tmp_path_factory) -> Path:
    """The held-out digits, tokenised by one process without a break."""
    out = tmp_path_factory.mktemp("heldout") / "cache"
    assert cli.main([*TOKENIZE, str(out)]) == 0
    return out


def test_a_killed_process_costs_nothing_but_time(heldout_cache, tmp_path):
    out = tmp_path / "cache"
    process = processes.start(cli.main, [*TOKENIZE, str(out)], said=tmp_path / "said")
    while not any(out.glob("shard-*.json")) and process.is_alive():
        time.sleep(0.002)
    time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CacheError, match="is not finished"):
        TokenCache(out)
    assert 1 <= len(list(out.glob("shard-*.json"))) < 8
    assert cli.main([*TOKENIZE, str(out)]) == 0
    assert contents_of(out) == contents_of(heldout_cache)


@pytest.mark.distributed
def test_two_ranks_write_what_one_writes(heldout_cache, tmp_path):
    out, said = tmp_path / "cache", tmp_path / "said"
    assert processes.run_ranks(2, cli.main, [*TOKENIZE, str(out)], said=said) == [0, 0]
    heard = "".join((tmp_path / f"said.{rank}").read_text() for rank in range(2))
    assert heard.count(f"The tokens of 2,000 images x 1 views are in {out}") == 1
    assert contents_of(out) == contents_of(heldout_cache)


def test_a_full_disk_is_one_sentence_and_what_was_written_is_kept(tokenizer, tmp_path):
    whole, full = tmp_path / "whole", tmp_path / "full"
    given = {"tokenizer": tokenizer, "dataset": blobs(), "shard_size": 40, **QUIET}
    write_cache(out=whole, **given)
    write_cache(out=full, ranks=Ranks(rank=1, count=2), **given)  # the second of three shards
    before = contents_of(full)
    # A limit on the size of files makes the operating system refuse to write on in the middle of a file.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))  # there are 40 x 21 tokens of 2 bytes
    try:
        with pytest.raises(CheckpointError, match=rf"Could not write {full}/tokens-00000\.npy \(.*\)") as caught:
            write_cache(out=full, **given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert contents_of(full) == before
    write_cache(out=full, **given)
    assert contents_of(full) == contents_of(whole)


# Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "views"), [("random", 2), ("ten", None)])
def test_training_from_a_cache_is_training_from_pixels(tokenizer, pictures, tmp_path, crop, views):
    images, preset = folder_set(pictures, crop, views), tiny_preset(epochs=4)  # two steps an epoch
    write_cache(tokenizer, images, tmp_path / "cache", shard_size=10, **QUIET)
    for name, given in (("pixels", images), ("tokens", TokenCache(tmp_path / "cache"))):
        training.train_model(preset, tokenizer, given, tmp_path / name, progress=False)
    assert [entry["step"] for entry in log_of(tmp_path / "pixels")] == [2, 4, 6, 8]
    assert log_of(tmp_path / "tokens") == log_of(tmp_path / "pixels")
    with pytest.raises(TrainingError, match="another configuration .*data.fingerprint"):
        training.train_model(preset, tokenizer, images, tmp_path / "tokens", progress=False)


def test_images_in_memory_have_the_same_losses_too(tokenizer, tmp_path):
    write_cache(tokenizer, blobs(), tmp_path / "cache", **QUIET)
    for name, given in (("pixels", blobs()), ("tokens", TokenCache(tmp_path / "cache"))):
        training.train_model(tiny_preset(), tokenizer, given, tmp_path / name, progress=False)
    assert len(log_of(tmp_path / "pixels")) == 6
    assert log_of(tmp_path / "tokens") == log_of(tmp_path / "pixels")


def test_a_raster_model_trains_from_a_cache(pictures, tmp_path):
    tokenizer = wake(VQVAE(tokenizer_config(**SINGLE)))
    images = folder_set(pictures)
    write_cache(tokenizer, images, tmp_path, **QUIET)
    index, losses = torch.arange(12), []
    for given in (images, TokenCache(tmp_path)):
        task = training.GPTTask(wake(GPT(gpt_config())), tokenizer, given)
        task.epoch = 3
        losses.append(task.loss(index, torch.device("cpu"))[0])
    assert torch.equal(*losses)


def test_a_cache_smaller_than_a_batch_is_refused(tokenizer, tmp_path):
    write_cache(tokenizer, blobs(10), tmp_path / "cache", **QUIET)
    with pytest.raises(TrainingError, match="The dataset has 10 images, fewer than one batch of 16"):
        training.train_model(tiny_preset(), tokenizer, TokenCache(tmp_path / "cache"), tmp_path, progress=False)


def test_reading_tokens_decodes_no_picture_and_multiplies_nothing(tokenizer, pictures, tmp_path, monkeypatch):
    # What makes a cache worth its place on the disk, counted instead of timed: a clock also measures the machine.
    images = folder_set(pictures)
    write_cache(tokenizer, images, tmp_path, **QUIET)
    cache, index = TokenCache(tmp_path), torch.arange(32)
    task = training.VARTask(VAR(var_config()), tokenizer, images)
    decoded, decode = [], pictures_module.decode
    monkeypatch.setattr(pictures_module, "decode", lambda *given: decoded.append(given) or decode(*given))

    def work_of(read) -> tuple[int, int]:
        """Pictures decoded, floating-point operations."""
        decoded.clear()
        with FlopCounterMode(display=False) as counter:
            read(index)
        return len(decoded), counter.get_total_flops()

    pictures_made, flops_made = work_of(lambda index: task.encoded.batch(index, 0))
    assert pictures_made == 32
    assert flops_made > 32 * 1_000_000  # this tiny encoder takes 1.7 million a picture
    assert work_of(cache.tokens) == (0, 0)
