"""Pictures in tar shards, through ``webdataset``: for sets that outgrow a disk, or a file system's patience.

A shard is a tar file of some thousand pictures, each beside a file with the number of its class, which is read from
beginning to end: from a disk, over the network, or from the output of a command. To train in any order and to resume
at any step a set must be one that can be asked for image i, as ``webdataset``'s streams cannot, so ``ShardSet`` keeps
a few shards in memory and ``window_order`` sees to it that the images are asked for shard by shard.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import bisect
import contextlib
import functools
import io
import itertools
import json
import mmap
import os
import re
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minivar.data.arrays import ArraySet
from minivar.data.base import IMAGE_SUFFIXES, DataError
from minivar.data.folders import FolderSet
from minivar.data.pictures import PictureSet
from minivar.files import CheckpointError, write_atomically


class Sample(NamedTuple):
    """One image of a shard, as it lies there."""

    name: str  # SHARD/KEY.SUFFIX
    picture: bytes | memoryview  # encoded
    label: int


class ShardSet(PictureSet):
    """Images in the tar shards of ``source``: a folder with ``*.tar``, or addresses that ``webdataset`` opens.

    Addresses are a list, or a pattern such as ``http://host/train-{000000..001281}.tar`` or ``pipe:COMMAND``; the
    commands of a pattern are executed. A sample is a picture (``.jpg``, ``.png``, ...) and a ``.cls``, its class as a
    decimal number. Options, views and unreadable images are as in ``PictureSet``; a broken shard is an error.

    ``sizes`` says how many samples each shard has: {name: count}, or the address of a JSON file with that; otherwise
    ``sizes.json`` beside the shards. Local shards that have none are read once to count, and ``sizes.json`` is then
    written beside them, if that is allowed. Classes are the numbers below ``num_classes``, or else the lines of
    ``classes.txt`` beside the shards, or else the numbers up to the largest met when counting, which then writes
    ``classes.txt``. ``labels`` is None: they are known only once read.

    Each process that reads takes its batches from all shards of the window. Local ``.tar`` files are mapped, so that
    the processes of a machine share one copy of them, which the system may drop when memory is short. Of others every
    process holds the encoded pictures of ``window`` shards, about 1 GB for 8 shards of 1,000 ImageNet pictures each,
    and fetches all shards once an epoch; hence a single worker by default. Other orders than ``order`` work too, but
    read a shard for almost every image if they jump.

    Raises ``DataError`` for missing shards, counts or classes, and later for a shard that cannot be used.
    """

    labels = None

    def __init__(
        self,
        source: str | Path | Sequence[str],
        size: int,
        channels: int = 3,
        window: int = 8,
        sizes: dict[str, int] | str | Path | None = None,
        num_classes: int | None = None,
        **options,
    ) -> None:
        super().__init__(size, channels, **options)
        if window < 1:
            raise DataError(f"The window must be of at least one shard; got {window}.")
        self.where = source if isinstance(source, (str, Path)) else f"{len(source)} shards"
        self.shards = find_shards(source)
        self.class_names = tuple(map(str, range(num_classes or 0)))
        self._learn(sizes)
        self._ends = list(itertools.accumulate(self.counts))
        self._window = window
        self._held: OrderedDict[int, list[Sample]] = OrderedDict()  # the shards used last
        if not all(map(is_local, self.shards)):
            self.most_workers = 1  # each would read every shard for itself, and a network is not to be asked twice
        # not a method: train.fit remembers the orders of two epochs, which should not keep this set in memory
        self.order = functools.partial(window_order, tuple(self.counts), window)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def contents(self) -> bytes:
        """Names of the shards and how many samples they have."""
        return "\n".join(f"{base_name(shard)} {count}" for shard, count in zip(self.shards, self.counts)).encode()

    def _learn(self, sizes: dict[str, int] | str | Path | None) -> None:
        """Find ``counts`` (of the samples of each shard) and ``class_names``."""
        beside = Path(self.shards[0]).parent if is_local(self.shards[0]) else None
        if beside and not self.class_names and (beside / "classes.txt").is_file():
            self.class_names = tuple((beside / "classes.txt").read_text(encoding="utf-8").splitlines())
        if sizes is None and beside and (beside / "sizes.json").is_file():
            sizes = beside / "sizes.json"
        if sizes is not None:
            self.counts = counts_of(self.shards, sizes)
        elif beside:
            self._count(beside)
        else:
            raise DataError(f"How many samples have the shards {self.where}? Expected sizes: a dict, or a JSON file.")
        if not sum(self.counts):
            raise DataError(f"The shards {self.where} are empty: expected pictures, got {len(self.shards)} shards.")
        if not self.class_names:
            raise DataError(f"The shards {self.where} need num_classes, or a classes.txt beside them; got neither.")

    def _count(self, beside: Path) -> None:
        """Read all shards to learn it, and keep it ``beside`` them for the next time."""
        self.counts, largest = [], -1
        for shard in self.shards:
            labels = [sample.label for sample in read_shard(shard)]
            self.counts.append(len(labels))
            largest = max([largest, *labels])
        files = {"sizes.json": json.dumps(dict(zip(map(base_name, self.shards), self.counts)), indent=0)}
        if not self.class_names:
            self.class_names = tuple(map(str, range(largest + 1)))
            files["classes.txt"] = "\n".join(self.class_names)
        with contextlib.suppress(CheckpointError):  # a folder that is not ours to write to
            write_texts(beside, files)

    def _open(self, number: int) -> tuple[str, object, int]:
        shard = bisect.bisect_right(self._ends, number)
        sample = self._samples(shard)[number - self._ends[shard]]  # counted from the end of the shard: -count .. -1
        return sample.name, io.BytesIO(sample.picture), sample.label

    def _samples(self, shard: int) -> list[Sample]:
        """The samples of a shard, which is read unless it is among those used last."""
        if shard not in self._held:
            while len(self._held) >= self._window:
                self._held.popitem(last=False)
            self._held[shard] = self._load(shard)
        self._held.move_to_end(shard)
        return self._held[shard]

    def __getstate__(self) -> dict:
        """A worker process gets the set without the shards in memory, and reads its own."""
        return {**self.__dict__, "_held": OrderedDict()}

    def _load(self, shard: int) -> list[Sample]:
        name, samples = self.shards[shard], read_shard(self.shards[shard])
        if len(samples) != self.counts[shard]:
            raise DataError(f"The shard {name} has {len(samples)} samples, expected {self.counts[shard]}, its size.")
        for sample in samples:
            if not 0 <= sample.label < len(self.class_names):
                raise DataError(
                    f"The shard {name} has a sample of class {sample.label} ({sample.name}), expected 0 to "
                    f"{len(self.class_names) - 1}."
                )
        return samples


def window_order(counts: Sequence[int], window: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """A permutation int64 (size,) that reads shards of ``counts`` samples one window after the other.

    The shards are permuted, and within every ``window`` of them the images: a batch mixes ``window`` shards, and each
    shard is read once.
    """
    ends = torch.tensor(counts).cumsum(0).tolist()
    parts = []
    for together in torch.randperm(len(counts), generator=generator).split(window):
        images = torch.cat([torch.arange(ends[i] - counts[i], ends[i]) for i in together.tolist()])
        parts.append(images[torch.randperm(len(images), generator=generator)])
    order = torch.cat(parts)
    assert len(order) == size, f"{len(order)} samples in the shards, {size} wanted"
    return order


# Reading ------------------------------------------------------------------------------------------------------------


def require_webdataset():
    """The package ``webdataset``, or a ``DataError`` that says how to install it."""
    try:
        import webdataset
    except ImportError as error:
        raise DataError("Tar shards need the package webdataset: pip install 'minivar[scale]'.") from error
    return webdataset


def is_local(shard: str) -> bool:
    """Whether an address is a path."""
    return "://" not in shard and not shard.startswith("pipe:")


def base_name(shard: str) -> str:
    """What comes after the last slash of an address."""
    return shard.replace(os.sep, "/").rpartition("/")[2]


def find_shards(source: str | Path | Sequence[str]) -> list[str]:
    """Addresses of the shards of a folder, sorted, or of a pattern or list, in their order."""
    require_webdataset()
    from webdataset.shardlists import expand_urls

    if isinstance(source, (str, Path)) and os.path.isdir(source):
        shards = sorted(map(str, Path(source).glob("*.tar")))
    else:
        shards = expand_urls(str(source)) if isinstance(source, (str, Path)) else list(source)
    missing = [shard for shard in shards if is_local(shard) and not os.path.isfile(shard)]
    if missing or not shards:
        what = f"{missing[0]} is no file" if missing else "none"
        raise DataError(
            f"No tar shards at {source}: expected a folder with *.tar files, or their addresses, got {what}."
        )
    return shards


def counts_of(shards: list[str], sizes: dict[str, int] | str | Path) -> list[int]:
    """How many samples each shard has, by its name or its whole address in ``sizes``, a dict or a JSON file."""
    if not isinstance(sizes, dict):
        try:
            with require_webdataset().gopen(str(sizes)) as file:
                sizes = dict(json.loads(file.read()))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"Cannot read the sizes {sizes}: expected JSON of {{shard: count}}, got {_reason(error)}."
            ) from error
    counts = [sizes.get(base_name(shard), sizes.get(shard)) for shard in shards]
    for shard, count in zip(shards, counts):
        if not isinstance(count, int) or count < 0:
            raise DataError(f"The sizes say {count!r} of the shard {shard}: expected its number of samples.")
    return counts


def read_shard(shard: str) -> list[Sample]:
    """All samples of a shard, in one go; ``DataError`` naming it if it is broken or a sample is incomplete."""
    gopen = require_webdataset().gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with gopen(shard) as stream:
            if is_local(shard) and shard.endswith(".tar"):
                found = list(group_by_keys(mapped_files(shard, stream)))
            else:
                found = list(group_by_keys(tar_file_expander([{"url": shard, "stream": stream}])))
                check_end(stream.read() if shard.endswith(".tar") else b"")
    except Exception as error:  # tarfile's, the system's, and webdataset's, which lengthens their arguments
        raise DataError(f"Cannot read the shard {shard}: expected a whole tar file, got {_reason(error)}.") from error
    return [_sample(shard, parts) for parts in found]


def mapped_files(shard: str, stream: io.BufferedReader) -> Iterator[dict]:
    """The files in a tar file on this machine, as ``webdataset`` expects them, their contents where it is mapped."""
    mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if member.isreg() and not re.match(r"__[^/]*__($|/)", member.name):  # webdataset's own notes
                content = mapped[member.offset_data : member.offset_data + member.size]
                yield {"fname": member.name, "data": content, "__url__": shard}
        check_end(bytes(mapped[tar.offset :]))


def check_end(rest: bytes) -> None:
    """Raise ``ValueError`` unless what follows the last file is zeros: tarfile takes a broken header for the end."""
    if rest.strip(b"\0"):
        raise ValueError("a broken header in the middle")


def _reason(error: Exception) -> str:
    """What is wrong, without the addresses of objects and the whole command that ``webdataset`` adds."""
    text = getattr(error, "strerror", None) or str(error.args[0] if error.args else error).partition(" @ ")[0]
    status = re.search(r"exit \d+", text)
    return f"{status[0]} of the command that reads it" if status else text


def _sample(shard: str, parts: dict) -> Sample:
    """From what ``webdataset`` found under one name: {suffix: bytes}, and its own notes between underscores."""
    key, suffixes = parts["__key__"], [suffix for suffix in parts if f".{suffix}" in IMAGE_SUFFIXES]
    if len(suffixes) != 1 or "cls" not in parts:
        got = ", ".join(f".{suffix}" for suffix in parts if not suffix.startswith("__"))
        raise DataError(f"The sample {key} of the shard {shard} needs one picture and a .cls; got {got}.")
    try:
        label = int(parts["cls"])
    except ValueError as error:
        got = bytes(parts["cls"][:20])
        raise DataError(f"The .cls of the sample {key} of the shard {shard} is no number: {got!r}.") from error
    return Sample(f"{base_name(shard)}/{key}.{suffixes[0]}", parts[suffixes[0]], label)


# Writing ------------------------------------------------------------------------------------------------------------


def write_texts(folder: Path, files: dict[str, str]) -> None:
    """Write small files atomically, {name: text}."""
    for name, text in files.items():
        write_atomically(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))


def write_shards(source, out: Path | str, per_shard: int = 1000, seed: int | None = 0) -> None:
    """Write the images of a folder (or ``FolderSet``, or ``ArraySet``) as shards of ``per_shard`` into ``out``.

    Files go in as they are, arrays as PNG, with ``sizes.json`` and ``classes.txt``. The images are permuted by
    ``seed`` (None: not), for in the order of a folder a window of shards would hold but a few classes. Raises
    ``DataError`` if ``out`` has shards already.
    """
    writer_of = require_webdataset().ShardWriter
    source = FolderSet(source, size=1) if isinstance(source, (str, Path)) else source
    if not isinstance(source, (FolderSet, ArraySet)):
        raise DataError(f"Shards are written from a folder, a FolderSet or an ArraySet; got {type(source).__name__}.")
    out = Path(out)
    if any(out.glob("*.tar")):
        raise DataError(f"{out} has tar files already: expected a folder without.")
    out.mkdir(parents=True, exist_ok=True)
    order = torch.arange(len(source))
    if seed is not None:
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    counts: Counter[str] = Counter()
    pattern = str(out).replace("%", "%%") + "/shard-%06d.tar"
    with writer_of(pattern, maxcount=per_shard, maxsize=float("inf"), verbose=0, encoder=False, mtime=0) as writer:
        for number, i in enumerate(order.tolist()):
            suffix, picture = _encoded(source, i)
            label = str(int(source.labels[i])).encode()
            writer.write({"__key__": f"{number:08d}", suffix: picture, "cls": label})
            counts[base_name(writer.fname)] += 1
    write_texts(out, {"classes.txt": "\n".join(source.class_names), "sizes.json": json.dumps(counts, indent=0)})


def _encoded(source: FolderSet | ArraySet, i: int) -> tuple[str, bytes]:
    """Suffix and bytes of image ``i``."""
    if isinstance(source, FolderSet):
        path = source.root / source.files[i]
        try:
            return path.suffix[1:].lower(), path.read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read the image {path}: expected a file, got {error}.") from error
    from torchvision.transforms.functional import to_pil_image  # here, because it takes seconds

    with io.BytesIO() as file:
        to_pil_image(source.images[i]).save(file, "PNG")
        return "png", file.getvalue()
