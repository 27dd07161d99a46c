"""Pictures on a disk, in folders or tar shards, decoded and cropped when they are asked for.

A run can stop anywhere and go on bit for bit, because a picture depends on (seed, number of the image, number of the
view) alone: not on worker processes, ranks, batches, or how often something was read before.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import itertools
import math
import zlib
from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from minivar.data.base import DataError, Dataset, ImageSet, view_of
from minivar.distributed import Ranks
from minivar.files import write_atomically

# Short side / size, number of views
CROPS = {"center": (1.125, 1), "random": (1.125, None), "ten": (1.1, 10), "zoom": (1.25, None)}


def decode(source, channels: int) -> Image.Image:
    """Read a picture from a path or a binary file as RGB (``channels`` 3) or grey (1), eight bits each.

    As in the published code, a camera's note on how it was held (EXIF) is not followed, and of an animation the first
    frame counts. Transparent pictures are laid on white, of 16 bits the upper eight are kept. Raises whatever Pillow
    raises: of a decompression bomb too, which is a picture of more than 179 million pixels.
    """
    with Image.open(source) as picture:
        if max(picture.size) > 100 * min(picture.size):  # with its short side resized it may not fit into memory
            raise ValueError(f"{picture.width} x {picture.height} pixels, more than 100 times as long as wide")
        if picture.mode.startswith("I"):  # convert would clip at 255
            upper = np.asarray(picture).astype(np.int64).clip(0, 65535) >> 8
            picture = Image.fromarray(upper.astype(np.uint8))
        if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return picture.convert("RGB" if channels == 3 else "L")


def short_side_to(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose short side is resized to ``side``: halved with a box filter, then bicubic.

    Guided diffusion's, which DiT and LlamaGen use.
    """
    while min(picture.size) >= 2 * side:
        picture = picture.resize(tuple(length // 2 for length in picture.size), Image.Resampling.BOX)
    scale = side / min(picture.size)
    return picture.resize(tuple(round(length * scale) for length in picture.size), Image.Resampling.BICUBIC)


def central_square(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, ``side`` pixels of its short side as ``short_side_to`` resizes it."""
    picture = short_side_to(picture, side)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


class PictureSet(ImageSet):
    """What folders and shards share: crops, and images that cannot be read.

    ``crop`` is one of four published ways to cut a square of ``size`` from a picture:

    - "center": VAR's for held-out images. The short side is resized (Lanczos) to ``resize`` (1.125) x size, and the
      middle is cut out.
    - "random": VAR's for training: resized likewise, cut out at random, never mirrored.
    - "zoom": LlamaGen's for training its tokenizer. The short side is resized (``short_side_to``) to a size drawn
      from 1 to ``resize`` (1.25) x size, a window is cut out at random, and half of them are mirrored.
    - "ten": LlamaGen's for its transformers. ``central_square`` of ``resize`` (1.1) x size, of which torchvision's
      ``TenCrop`` takes the corners, the middle, and the mirror images of these five.

    The *view* of an image is the number of its crop. There are 1 and 10 of "center" and "ten". Of "random" and "zoom"
    there is a fresh one every epoch, or ``views`` that take turns (``data.view_of``).

    An image that cannot be read, for whatever reason, is replaced by the next in file order that can, with that one's
    label, and ``unreadable`` holds its name and the reason. More than ``max_unreadable`` of the whole set stops with
    a ``DataError``, where one image is always allowed unless the share is 0. Every rank counts what it met itself.

    A subclass has ``class_names`` and ``where`` (for messages), and says how many images there are, ``__len__``, what
    they are, ``contents``, and how to open one, ``_open``.
    """

    where: str | Path
    most_workers = 8  # each decodes some hundred photographs a second (notebooks/13_imagenet.ipynb)

    def __init__(
        self,
        size: int,
        channels: int = 3,
        crop: str = "center",
        resize: float | None = None,
        views: int | None = None,
        seed: int = 0,
        max_unreadable: float = 0.01,
    ) -> None:
        if crop not in CROPS:
            raise DataError(f"Unknown crop {crop!r}: expected one of {', '.join(CROPS)}.")
        default, fixed = CROPS[crop]
        resize = default if resize is None else resize
        if fixed is not None and views not in (None, fixed):
            raise DataError(f"The crop {crop!r} has {fixed} views of an image; got views={views}.")
        if size < 1 or channels not in (1, 3) or resize < 1:
            raise DataError(
                f"Expected a size of at least 1, 1 or 3 channels, and resize of at least 1; got {size}, {channels} "
                f"and {resize}."
            )
        if (views is not None and views < 1) or seed < 0 or not 0 <= max_unreadable <= 1:
            raise DataError(
                "Expected at least one view, a seed of at least 0, and max_unreadable in [0, 1]; got "
                f"views={views}, seed={seed}, max_unreadable={max_unreadable}."
            )
        self.image_shape = (channels, size, size)
        self.crop, self.resize, self.seed = crop, resize, seed
        self.views = views if fixed is None else fixed
        self.max_unreadable = max_unreadable
        self.unreadable: dict[str, str] = {}
        self._skipped: set[int] = set()

    @property
    @abstractmethod
    def contents(self) -> bytes:
        """What distinguishes these images from others."""

    @abstractmethod
    def _open(self, number: int) -> tuple[str, object, int]:
        """Name, what Pillow can open (a path or a file), and label of an image."""

    @property
    def fingerprint(self) -> int:
        """CRC-32 of the names of the images and of how they are cropped; the pictures themselves are not read."""
        cropped = (*self.image_shape, self.crop, self.resize, self.views, self.seed)
        return zlib.crc32(self.contents, zlib.crc32(repr(cropped).encode()))

    def batch(self, index: Tensor | slice, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """The views that ``epoch`` shows of the images ``index``; arguments and returns as ``ArraySet.batch``."""
        index = self._numbers(index)
        return self.at_view(index, view_of(index, epoch, self.views))

    def pixels(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """Images (B,) at a view each, or the same for all: uint8 (B, C, H, W), and int64 labels (B,).

        Several views of one image cost one decoding. Raises ``DataError`` for a view that is not there, or too many
        unreadable images.
        """
        index = self._numbers(index)
        read = {image: self._read(image, views) for image, views in self._jobs(index, view).items()}
        cuts = {image: iter(pixels) for image, (pixels, _) in read.items()}
        images = [torch.from_numpy(next(cuts[image])) for image in index.tolist()]
        return torch.stack(images), torch.tensor([read[image][1] for image in index.tolist()])

    def report_unreadable(self, found: dict[str, str]) -> None:
        """Add to ``unreadable``; ``DataError`` where it then holds more than ``max_unreadable`` of the images."""
        super().report_unreadable(found)
        count, total = len(self.unreadable), len(self)
        allowed = max(1, int(self.max_unreadable * total)) if self.max_unreadable else 0
        if count > allowed:
            first = ", ".join(f"{name} ({reason})" for name, reason in list(self.unreadable.items())[:3])
            raise DataError(
                f"{count} of the {total} images in {self.where} cannot be read ({count / total:.2%}), expected at "
                f"most {allowed} (max_unreadable {self.max_unreadable}): {first}{', ...' if count > 3 else '.'}"
            )

    def _numbers(self, index: Tensor | slice) -> Tensor:
        return torch.arange(*index.indices(len(self))) if isinstance(index, slice) else torch.as_tensor(index)

    def _jobs(self, index: Tensor, view: Tensor | int) -> dict[int, tuple[int, ...]]:
        """The views that are wanted of each image, in the order of ``index``."""
        jobs: dict[int, tuple[int, ...]] = {}
        for image, number in zip(index.tolist(), torch.as_tensor(view).expand(len(index)).tolist()):
            if number < 0 or (self.views is not None and number >= self.views):
                raise DataError(
                    f"The images of {self.where} have {self.views or 'any number of'} views; got {number}."
                )
            jobs[image] = (*jobs.get(image, ()), number)
        return jobs

    def _read(self, number: int, views: tuple[int, ...]) -> tuple[list[np.ndarray], int]:
        """Views of an image, uint8 (C, H, W) each, and its label; or of the next image that can be read."""
        for i in itertools.chain(range(number, len(self)), range(number)):
            if i in self._skipped:
                continue
            name, source, label = self._open(i)
            try:
                picture = decode(source, self.image_shape[0])
            except MemoryError:
                raise
            except Exception as error:  # for a broken file Pillow raises almost anything
                unknown = isinstance(error, UnidentifiedImageError)  # whose text holds the whole path, or an address
                self._skipped.add(i)
                self.report_unreadable({name: "not a picture" if unknown else " ".join(str(error).split())})
            else:
                cuts = (np.array(cut).reshape(self.image_shape[::-1]) for cut in self._cut(picture, i, views))
                return [np.ascontiguousarray(pixels.transpose(2, 0, 1)) for pixels in cuts], label
        raise DataError(f"None of the {len(self)} images in {self.where} can be read.")

    def _cut(self, picture: Image.Image, number: int, views: tuple[int, ...]) -> list[Image.Image]:
        import torchvision.transforms.functional as TF  # here: it brings torch's compiler along, which takes seconds

        size = self.image_shape[-1]
        if self.crop == "ten":
            crops = TF.ten_crop(central_square(picture, int(self.resize * size)), size)
            return [crops[view] for view in views]
        if self.crop == "zoom":
            return [self._zoom(picture, number, view) for view in views]
        picture = TF.resize(picture, round(self.resize * size), TF.InterpolationMode.LANCZOS)
        if self.crop == "center":
            return [TF.center_crop(picture, size)] * len(views)
        return [self._cut_window(picture, self._drawn(number, view, 2)) for view in views]

    def _drawn(self, number: int, view: int, count: int) -> list[int]:
        """``count`` large random numbers, always the same for a view of an image."""
        return np.random.SeedSequence((self.seed, number, view)).generate_state(count, np.uint64).tolist()

    def _cut_window(self, picture: Image.Image, drawn: list[int]) -> Image.Image:
        size = self.image_shape[-1]
        top, left = (n % (side - size + 1) for n, side in zip(drawn, (picture.height, picture.width)))
        return picture.crop((left, top, left + size, top + size))

    def _zoom(self, picture: Image.Image, number: int, view: int) -> Image.Image:
        size, (*place, zoom, mirrored) = self.image_shape[-1], self._drawn(number, view, 4)
        short_side = size + zoom % (math.ceil(self.resize * size) - size + 1)  # every size is as likely
        window = self._cut_window(short_side_to(picture, short_side), place)
        return ImageOps.mirror(window) if mirrored % 2 else window


def write_unreadable(data: Dataset, out: Path, ranks: Ranks, say: bool = False) -> None:
    """Add what any rank could not read of ``data`` to ``out/unreadable.txt``: name, tab, reason, sorted by name.

    Every rank must call it, and rank 0 writes, after what the file held before a restart. Nothing is written where
    everything could be read. ``say``: tell how many there are.
    """
    found: dict[str, str] = {}
    for theirs in ranks.gather(dict(data.unreadable)):
        found |= theirs
    path = Path(out) / "unreadable.txt"
    if not ranks.leads or not (found or path.is_file()):
        return
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    found |= dict(line.partition("\t")[::2] for line in before.splitlines())
    text = "".join(f"{name}\t{reason}\n" for name, reason in sorted(found.items()))
    if text != before:
        write_atomically(
            path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        )
    if say:
        tqdm.write(
            f"Images that could not be read and were replaced by the next ones: {len(found)}, listed in {path}."
        )
