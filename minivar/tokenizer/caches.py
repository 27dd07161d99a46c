"""Token caches: the tokens of a dataset on disk, so that the tokenizer runs once and not in every epoch.

LlamaGen (arXiv 2406.06525) trains from such codes, of ten crops an image. A cache is a folder:

================ =================================================================================================
cache.json       what the cache holds (``Contents``) and, once all are written, its shards with their checksums
tokens-00000.npy the tokens of the first ``shard_size`` images, (images, views, L), uint16, or int32 for V > 65,536
labels-00000.npy their labels, (images,), int64
shard-00000.json checksums of the two; written after them, so that a shard which has it is whole
================ =================================================================================================

Every file is written to a temporary one, synced and renamed. Whoever is stopped starts again by the same call: whole
shards are kept, the others written anew. Shards are independent of each other, so any number of processes can share
the work without a word between them. Tokens are read through memory maps: opening a cache does not load it.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import functools
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minivar.data import Dataset, Feed, ImageSet, default_workers, view_of
from minivar.distributed import Ranks
from minivar.files import config_from_dict, sha256, weights_fingerprint, write_atomically
from minivar.precision import full_precision
from minivar.tokenizer.vqvae import VQVAE, TokenizerConfig

FORMAT = 1


class CacheError(ValueError):
    """A token cache that is missing, unfinished, damaged, or not the one that was asked for."""


class TokenShape(Protocol):
    """What the configuration of every transformer over tokens says of them."""

    grids: tuple[tuple[int, int], ...]
    codebook_size: int  # V


@dataclass(frozen=True)
class Contents:
    """What a cache holds: of which images, by which tokenizer, and how it is cut into shards."""

    images: int
    views: int  # stored of each image; they take turns (data.view_of)
    codebook_size: int  # V
    grids: tuple[tuple[int, int], ...]  # of the scales; a single-scale tokenizer has one
    class_names: tuple[str, ...]
    dataset: str  # its kind, such as FolderSet
    dataset_fingerprint: int
    tokenizer: str  # weights_fingerprint
    shard_size: int  # images; the last shard may have fewer

    @property
    def length(self) -> int:
        """L, the tokens of an image."""
        return sum(height * width for height, width in self.grids)

    @property
    def num_shards(self) -> int:
        """How many shards there are in all."""
        return math.ceil(self.images / self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens on disk."""
        return np.dtype(np.uint16 if self.codebook_size <= 2**16 else np.int32)

    @property
    def fingerprint(self) -> int:
        """CRC-32 of all fields: the same images and weights have the same tokens, but for rounding."""
        return zlib.crc32(json.dumps(asdict(self)).encode())

    def rows(self, number: int) -> range:
        """The images of a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.images))

    def asked(self, numbers: list[int], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(index, view), int64 (B,) each, of shard after shard: the views of an image one after the other."""
        for number in numbers:
            rows = self.rows(number)
            for part in torch.arange(len(rows) * self.views).split(batch_size):
                yield rows.start + part // self.views, part % self.views


def grids_of(config: TokenizerConfig, image_shape: tuple[int, int, int]) -> tuple[tuple[int, int], ...]:
    """The grids of the tokens of such images: those of the schedule, or a single one."""
    if config.schedule is not None:
        return config.schedule.grids
    return (tuple(-(-side // config.nets.stride) for side in image_shape[1:]),)


def encode(tokenizer: VQVAE, images: Tensor) -> Tensor:
    """Images (B, channels, height, width) in [-1, 1] -> int64 tokens (B, L), all scales in a row.

    Never in autocast's 16 bits, which would pick other codes; in TF32 where ``precision.tf32`` allows it.
    """
    images = images.to(next(tokenizer.parameters()).device)
    with full_precision(images):
        return torch.cat(tokenizer.encode(images), dim=1)


# Writing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_cache(
    tokenizer: VQVAE,
    dataset: ImageSet,
    out: Path | str,
    views: int | None = None,
    shard_size: int = 10_000,
    batch_size: int = 64,
    ranks: Ranks | None = None,
    progress: bool = True,
    workers: int | None = None,
) -> bool:
    """Write, or finish, the cache of ``dataset`` in the folder ``out``; whether it is whole now.

    ``views`` of each image are stored, by default as many as the dataset has. The tokenizer is moved to the device
    of these ``ranks``, in eval mode; process r does shards r, r + count, ... and returns when it is through,
    the last one of them with True. Tokens are those of the images one at a time but for rounding: in batches of
    another size, or on another device, a feature that lies between two codes may fall to the other side. ``workers``
    processes read images ahead (None: ``data.default_workers``). Raises ``CacheError`` for impossible sizes or if
    ``out`` holds another cache, ``CheckpointError`` if a file cannot be written; whole shards stay.
    """
    out, ranks = Path(out), ranks or Ranks()
    tokenizer.to(ranks.device).eval()
    views = _checked_views(dataset, views, shard_size, batch_size)
    encode(tokenizer, dataset.batch(torch.tensor([0]))[0])  # images that do not fit are refused here
    contents = _contents(tokenizer, dataset, views, shard_size)
    _claim(out, contents)
    mine = range(ranks.rank, contents.num_shards, ranks.count)
    missing = [number for number in mine if not _is_whole(out, number, contents)]
    total, left = (sum(len(contents.rows(number)) for number in part) * views for part in (mine, missing))
    bar = {"total": total, "initial": total - left, "desc": "tokenize", "unit": "image", "mininterval": 2}
    workers = default_workers(dataset, ranks.device) if workers is None else workers
    feed = Feed(dataset, contents.asked(missing, batch_size), workers, ranks.device)
    with tqdm(**bar, disable=not progress) as shown, closing(feed):
        batches = iter(feed)
        for number in missing:
            _write_shard(tokenizer, dataset, out, number, contents, batches, shown)
    return _finish(out, contents)


def _checked_views(dataset: ImageSet, views: int | None, shard_size: int, batch_size: int) -> int:
    """How many views of an image to store."""
    views = dataset.views if views is None else views
    if views is None:
        raise CacheError(
            "The dataset takes a fresh crop of each image in every epoch: say how many views to store, as in --views "
            "10, or choose --crop center or ten."
        )
    if min(views, shard_size, batch_size) < 1:
        raise CacheError(f"Views, shard and batch size must be at least 1; got {views}, {shard_size}, {batch_size}.")
    return views


def _contents(tokenizer: VQVAE, dataset: ImageSet, views: int, shard_size: int) -> Contents:
    """What the cache of these images by this tokenizer holds."""
    return Contents(
        images=len(dataset),
        views=views,
        codebook_size=tokenizer.config.codebook_size,
        grids=grids_of(tokenizer.config, dataset.image_shape),
        class_names=tuple(dataset.class_names),
        dataset=type(dataset).__name__,
        dataset_fingerprint=dataset.fingerprint,
        tokenizer=weights_fingerprint(tokenizer),
        shard_size=shard_size,
    )


def _claim(out: Path, contents: Contents) -> None:
    """Note in an empty folder what it will hold; ``CacheError`` if it holds another cache."""
    if not (out / "cache.json").is_file():
        _write_index(out, contents, [])
    found, asked = asdict(_read_index(out)[0]), asdict(contents)
    differing = [f"{k}: {found[k]!r:.80} there, {v!r:.80} asked for" for k, v in asked.items() if found[k] != v]
    if differing:
        raise CacheError(f"{out} holds another token cache ({'; '.join(differing)}): choose another folder.")


def _finish(out: Path, contents: Contents) -> bool:
    """Gather the checksums into the index once all shards are there; whether they are."""
    paths = [_file(out, "shard", number) for number in range(contents.num_shards)]
    if not all(path.is_file() for path in paths):  # other processes are still at work
        return False
    _write_index(out, contents, [_read_json(path) for path in paths])
    return True


def _write_shard(tokenizer: VQVAE, dataset, out: Path, number: int, contents: Contents, batches, bar) -> None:
    """Tokens and labels first, their checksums last."""
    for stale in out.glob(f".*-{number:05d}.*"):  # left by a kill in the middle of a write
        stale.unlink()
    rows, views = contents.rows(number), contents.views
    tokens = np.empty((len(rows) * views, contents.length), contents.dtype)
    labels = np.empty(len(rows) * views, np.int64)
    known = set(dataset.unreadable)
    done = 0
    while done < len(tokens):
        _, images, labels_B = next(batches)
        part = slice(done, done + len(images))
        tokens[part], labels[part] = encode(tokenizer, images).cpu(), labels_B.cpu()
        done = part.stop
        bar.update(len(images))
    checksums = {}
    for kind, array in (("tokens", tokens.reshape(len(rows), views, -1)), ("labels", labels[::views])):
        buffer = io.BytesIO()  # np.save straight into a file may say nothing when the disk is full
        np.save(buffer, array)
        checksums[kind] = hashlib.sha256(buffer.getbuffer()).hexdigest()
        write = functools.partial(Path.write_bytes, data=buffer.getbuffer())
        write_atomically(_file(out, kind, number), write)
    unreadable = {name: why for name, why in dataset.unreadable.items() if name not in known}
    shard = {"cache": contents.fingerprint, "sha256": checksums, "unreadable": dict(sorted(unreadable.items()))}
    _write_json(_file(out, "shard", number), shard)


def _is_whole(out: Path, number: int, contents: Contents) -> bool:
    """Whether a shard can be kept; if not, no other process will take it for whole either."""
    paths = {kind: _file(out, kind, number) for kind in ("tokens", "labels", "shard")}
    if all(path.is_file() for path in paths.values()):
        shard = _read_json(paths["shard"])
        same = all(sha256(paths[kind]) == checksum for kind, checksum in shard["sha256"].items())
        if same and shard["cache"] == contents.fingerprint:
            return True
    paths["shard"].unlink(missing_ok=True)
    return False


def _write_index(out: Path, contents: Contents, shards: list[dict]) -> None:
    unreadable = {name: why for shard in shards for name, why in shard["unreadable"].items()}
    parts = {"unreadable": dict(sorted(unreadable.items())), "shards": [shard["sha256"] for shard in shards]}
    _write_json(out / "cache.json", {"format": FORMAT, **asdict(contents), **parts})


def _write_json(path: Path, content: dict) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


# Reading ----------------------------------------------------------------------------------------------------------


class TokenCache(Dataset):
    """The tokens in a folder that ``write_cache`` filled, as a dataset to train on.

    ``verify`` compares the SHA-256 of every shard, which reads all of it, at 0.5 to 2 GB/s; of several processes
    (``ranks``) each takes its part. Sizes and shapes are compared in any case. Raises ``CacheError`` naming the shard
    that is damaged.
    """

    def __init__(self, folder: Path | str, verify: bool = True, ranks: Ranks | None = None) -> None:
        self.folder, ranks = Path(folder), ranks or Ranks()
        self.contents, self.unreadable, self.checksums = _read_index(self.folder)
        if len(self.checksums) != self.contents.num_shards:
            raise CacheError(f"The token cache {self.folder} is not finished: run minivar tokenize again as before.")
        self.class_names, self.views = self.contents.class_names, self.contents.views
        numbers = range(len(self.checksums))
        mine = numbers[ranks.rank :: ranks.count] if verify else ()
        self.shards = [self._open("tokens", number, number in mine) for number in numbers]
        labels = [self._open("labels", number, number in mine) for number in numbers]
        self.labels = torch.from_numpy(np.concatenate(labels))

    def __len__(self) -> int:
        return self.contents.images

    @property
    def fingerprint(self) -> int:
        """That of the contents: a run resumes only on the tokens it began with."""
        return self.contents.fingerprint

    def tokens(self, index: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """int64 indices (B,) -> int64 tokens (B, L) of the view whose turn it is in this epoch, int64 labels (B,)."""
        places = zip(index.tolist(), view_of(index, epoch, self.views).tolist())
        size = self.contents.shard_size
        rows = [self.shards[image // size][image % size, view] for image, view in places]
        return torch.from_numpy(np.stack(rows).astype(np.int64)), self.labels[index]

    def check(self, tokenizer: VQVAE, model: TokenShape) -> None:
        """Raise ``CacheError`` unless this tokenizer wrote the cache, and the model expects such tokens."""
        found = self.contents
        theirs = (found.grids, found.codebook_size, found.tokenizer[:12])
        ours = (model.grids, model.codebook_size, weights_fingerprint(tokenizer)[:12])
        if theirs != ours:
            raise CacheError(
                f"The token cache {self.folder} is not for this tokenizer and model: (grids, V, fingerprint of the "
                f"tokenizer) is {theirs} there; expected {ours}."
            )

    def _open(self, kind: str, number: int, verify: bool) -> np.ndarray:
        path, rows = _file(self.folder, kind, number), len(self.contents.rows(number))
        shape, dtype = (rows,), np.dtype(np.int64)
        if kind == "tokens":
            shape, dtype = (rows, self.contents.views, self.contents.length), self.contents.dtype
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, str(error)) from error
        if (array.shape, array.dtype) != (shape, dtype):
            raise _damaged(path, f"it holds {array.shape} {array.dtype}, expected {shape} {dtype}")
        if verify and sha256(path) != self.checksums[number][kind]:
            raise _damaged(path, "its SHA-256 is not the one in cache.json")
        return array.view(np.ndarray)  # still mapped; plain arrays are quicker to index than memmaps


def _file(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}-{number:05d}.{'json' if kind == 'shard' else 'npy'}"


def _damaged(path: Path, what: str) -> CacheError:
    return CacheError(f"{path} is damaged ({what}): run minivar tokenize again as before, which writes it anew.")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CacheError(f"{path} is damaged ({error}): delete it and run minivar tokenize again.") from error


def _read_index(folder: Path) -> tuple[Contents, dict[str, str], list[dict]]:
    """(contents, unreadable images and why, checksums of the shards: none before all are written)."""
    path = folder / "cache.json"
    if not path.is_file():
        raise CacheError(f"No token cache at {folder}: expected a folder that minivar tokenize filled.")
    index = _read_json(path)
    found = index.get("format") if isinstance(index, dict) else None
    if found != FORMAT:
        raise CacheError(f"{path} has format {found}; expected {FORMAT}.")
    try:
        _, unreadable, shards = (index.pop(key) for key in ("format", "unreadable", "shards"))
        return config_from_dict(Contents, index), unreadable, shards
    except (KeyError, TypeError) as error:
        raise CacheError(f"{path} is damaged ({error!r}): delete it and run minivar tokenize again.") from error
