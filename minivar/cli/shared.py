"""What several commands have in common."""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from minivar import checkpoints
from minivar.data import DATA_ROOT
from minivar.files import write_atomically
from minivar.models import Generator, caption_shape
from minivar.precision import PRECISIONS
from minivar.tokenizer import VQVAE, Pixels

SHIPPED = DATA_ROOT / "checkpoints" / "digits"
SHIPPED_TEXT = DATA_ROOT / "checkpoints" / "text-emoji.safetensors"  # that experiments/build_text.py writes
SHIPPED_OPTION = {
    "default": str(SHIPPED),
    "metavar": "DIR",
    "help": "folder with tokenizer.safetensors and var.safetensors or gpt.safetensors (default: the shipped digits)",
}
MOST_IMAGES = 1_000_000  # of one command: they are held in memory
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def add_model_arguments(parser) -> None:
    """``--checkpoint``, ``--published`` and where the latter is: for commands that take either."""
    parser.add_argument("--checkpoint", **{**SHIPPED_OPTION, "default": None})
    names = f"a published model, or a folder with the files of one; one of {', '.join(checkpoints.MODELS)}"
    parser.add_argument("--published", metavar="NAME", help=names)
    folder = "folder with the published files of --published (default: the Hub's cache, else the Hub)"
    parser.add_argument("--from", dest="folder", metavar="DIR", help=folder)
    parser.add_argument("--offline", action="store_true", help="take --published from the Hub's cache alone")


def open_tokenizer(args: argparse.Namespace) -> tuple[VQVAE, int]:
    """The tokenizer of --checkpoint, a folder that need not hold more, or of --published, and the side of its images.

    Of a published model both files are opened, so that what is told is also that they belong together.
    """
    if args.published is None:
        _check_published_alone(args)
        path = Path(args.checkpoint or SHIPPED) / "tokenizer.safetensors"
        tokenizer, _ = checkpoints.load(path, "VQVAE")
        return tokenizer, (tokenizer.config.image_size or (256, 256))[0]
    tokenizer, model, _ = open_models(args)
    if not isinstance(tokenizer, VQVAE):
        raise ValueError(f"{args.published} has no tokenizer: expected a model that draws tokens.")
    if tokenizer.config.image_size:
        return tokenizer, tokenizer.config.image_size[0]
    grid = model.config.grids[-1]  # of a LlamaGen in a folder whose name says nothing there is none
    return tokenizer, grid[0] * tokenizer.config.nets.stride if grid else 256


def open_models(args: argparse.Namespace, texts: bool = False) -> tuple[VQVAE | Pixels, Generator, dict]:
    """Tokenizer, transformer and header of --checkpoint or --published; ``args.checkpoint`` then names either.

    ``ValueError`` where what it draws from, captions or classes, is not what was given.
    """
    if args.published is None:
        _check_published_alone(args)
        args.checkpoint = args.checkpoint or str(SHIPPED)
        tokenizer, model, header = checkpoints.load_pair(args.checkpoint)
        check_texts(caption_shape(model.config) is not None, texts, args.checkpoint)
        return tokenizer, model, header
    if args.checkpoint is not None:
        raise ValueError(
            f"--checkpoint and --published each name a model: expected one of them, got {args.checkpoint} and "
            f"{args.published}."
        )
    args.checkpoint = args.published
    is_folder = args.published not in checkpoints.MODELS and Path(args.published).is_dir()
    if is_folder and args.folder is not None:
        raise ValueError(f"--published is a folder, {args.published}: expected no --from, got {args.folder}.")
    if not is_folder:
        check_texts(checkpoints.find_published(args.published).text, texts, args.published)  # before it is downloaded
        return checkpoints.open_published(args.published, args.folder, args.offline or None)
    tokenizer, model, header = checkpoints.open_folder(args.published)
    check_texts(caption_shape(model.config) is not None, texts, args.published)
    return tokenizer, model, header


def _check_published_alone(args: argparse.Namespace) -> None:
    if args.folder is not None or args.offline:
        raise ValueError("--from and --offline are for --published; got one of them without.")


def check_texts(draws_texts: bool, given: bool, name: str) -> None:
    """Raise ``ValueError`` unless a model draws from texts where texts were given, and else from classes."""
    if draws_texts and not given:
        raise ValueError(f"{name} draws from captions: expected minivar sample with --text, or a model of classes.")
    if given and not draws_texts:
        raise ValueError(f"{name} draws classes: expected --classes, or a model of captions; got --text.")


def load_classes(folder: Path | str) -> tuple[VQVAE | Pixels, Generator, dict]:
    """``checkpoints.load_pair``, for commands that know classes alone; ``ValueError`` for a model of captions."""
    tokenizer, model, header = checkpoints.load_pair(Path(folder))
    check_texts(caption_shape(model.config) is not None, False, str(folder))
    return tokenizer, model, header


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
