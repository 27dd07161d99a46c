"""What several commands have in common."""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from minivar.data import DATA_ROOT
from minivar.files import write_atomically
from minivar.precision import PRECISIONS

SHIPPED = DATA_ROOT / "checkpoints" / "digits"
SHIPPED_OPTION = {
    "default": str(SHIPPED),
    "metavar": "DIR",
    "help": "folder with tokenizer.safetensors and var.safetensors or gpt.safetensors (default: the shipped digits)",
}
MOST_IMAGES = 1_000_000  # of one command: they are held in memory
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--precision``, for commands that only run models."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    numbers = "of matrix products; all but float32 are for GPUs, and change images a little (default: float32)"
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32", help=numbers)


def add_accept_argument(parser) -> None:
    """``--accept``, for commands that draw and can choose."""
    text = "draw 1 / SHARE times as many and keep those that the digits' classifier is surest of (default: 1, all)"
    parser.add_argument("--accept", type=float, metavar="SHARE", help=text)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """``--set``, for commands that take a preset."""
    override = "change one field of the preset, as in model_train.epochs=5, model.schedule=1,2,4,8; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=override)


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """``--workers``, for commands that read many images."""
    default = "for a GPU as many as it has cores less one, at most 8; for a CPU, or images in memory, none"
    text = f"processes that read images ahead, of each rank (default: {default})"
    parser.add_argument("--workers", type=int, metavar="N", help=text)


def check_number(option: str, value: int, low: int, high: int) -> None:
    """Raise ``ValueError`` unless the value of an option lies in low..high."""
    if not low <= value <= high:
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise ValueError(f"{option} must be {bound}; got {value}.")


def output(name: str, suffixes: tuple[str, ...] = ()) -> Path:
    """The path of a file that a command will write, whose folder is made; ``ValueError`` if it cannot be written.

    Called before the work, so that nothing is computed for nothing.
    """
    path = Path(name)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{name!r} is no name for a picture: expected one that ends in {', '.join(suffixes)}.")
    if path.is_dir() or not path.name:
        raise ValueError(f"{name!r} is a folder: expected the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"Cannot write {path} ({error}): expected a folder that can be written to.") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"Cannot write {path}: expected a file that may be replaced.")
    return path


def save_npz(path: Path, images: Tensor, **others: Tensor) -> None:
    """Images (N, C, H, W) in [0, 1], float32 and without a single channel, and other arrays by name."""
    pixels = images.squeeze(1) if images.shape[1] == 1 else images
    arrays = {"images": pixels.float(), **others}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **{name: value.numpy() for name, value in arrays.items()})

    write_atomically(path, write)
