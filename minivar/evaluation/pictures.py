"""Sets of pictures as others write and read them: a folder of PNG, or the npz of guided diffusion's evaluator."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minivar.data import IMAGE_SUFFIXES, to_uint8
from minivar.distributed import Ranks
from minivar.evaluation.protocol import as_pixels, open_samples
from minivar.evaluation.results import ProtocolError
from minivar.files import write_atomically


class Pictures:
    """Pictures of one size on a disk, read batch by batch.

    ``path``: a folder of picture files, in the order of their names, or an npz whose ``arr_0`` is uint8 (N, H, W, 3),
    as ``minivar sample --evaluator`` writes it. Raises ``ProtocolError`` for anything else, and where sizes differ.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            self.files = sorted(p for p in self.path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not self.files:
                raise ProtocolError(f"{self.path} has no pictures in it: expected files such as 000000.png.")
            with Image.open(self.files[0]) as first:
                self.shape = (len(self.files), first.height, first.width, 3)
        else:
            self.files, self.pixels = None, open_samples(self.path)
            self.shape = self.pixels.shape
            if len(self.shape) != 4 or self.shape[-1] != 3:
                raise ProtocolError(f"arr_0 of {self.path} must be (N, H, W, 3); got {self.shape}.")

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: list[int]) -> Tensor:
        """uint8 (B, 3, H, W); grey is repeated."""
        if self.files is None:
            pixels = np.array(self.pixels[index])
        else:
            pixels = np.stack([self._open(self.files[i]) for i in index])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """``mu`` and ``sigma`` of InceptionV3's features, where the npz of a published reference brings them."""
        if self.files is not None:
            return None
        with np.load(self.path) as arrays:
            return (arrays["mu"], arrays["sigma"]) if {"mu", "sigma"} <= set(arrays.files) else None

    def _open(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ProtocolError(f"{file} is no picture ({error}): expected one that can be opened.") from error
        if pixels.shape != self.shape[1:]:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, self.shape[1:])]
            raise ProtocolError(
                f"Pictures of one set must have one size: {file.name} is {sizes[0]}, the first {sizes[1]}."
            )
        return pixels

    def batches(self, size: int = 50, ranks: Ranks | None = None, most: int | None = None) -> Iterator[Tensor]:
        """This rank's share of the pictures, or of the first ``most``: uint8 (B, 3, H, W)."""
        ranks = ranks or Ranks()
        mine = range(ranks.rank, min(len(self), most or len(self)), ranks.count)
        for begin in range(0, len(mine), size):
            yield self.read(list(mine[begin : begin + size]))


def write_npz(images: Tensor, path: Path) -> None:
    """Images (N, 1 or 3, H, W) in [0, 1] as ``arr_0``, uint8 (N, H, W, 3), which the evaluator reads."""

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, arr_0=as_pixels(images))

    write_atomically(path, save)


def write_pngs(images: Tensor, folder: Path, begin: int = 0) -> None:
    """Images (N, 1 or 3, H, W) in [0, 1] as 000000.png and so on, counted from ``begin``."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = to_uint8(images * 2 - 1).permute(0, 2, 3, 1).cpu().numpy()
    for number, picture in enumerate(pixels, begin):
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        write_atomically(
            folder / f"{number:06d}.png", lambda path, p=picture: Image.fromarray(p).save(path, format="PNG")
        )
