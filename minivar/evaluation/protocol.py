"""The published protocol: 50,000 samples in one file, judged by one program.

FID and its companions are comparable only if everything is the same: number of samples, classes, pixels, features.
The papers give their samples to the evaluator of guided diffusion (arXiv 2105.05233), which reads an npz with uint8
pictures. ``write_samples`` makes that file; ``results`` reads what the evaluator printed.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from minivar.data import to_uint8
from minivar.distributed import Ranks
from minivar.evaluation.results import ProtocolError
from minivar.files import weights_fingerprint, write_atomically
from minivar.models import GPT, VAR
from minivar.precision import computing
from minivar.sampling import generate, images_at_once, packed
from minivar.tokenizer import VQVAE


def write_samples(
    tokenizer: VQVAE,
    model: VAR | GPT,
    path: Path | str,
    count: int = 50_000,
    batch: int | None = None,
    size: int | None = None,
    seed: int = 0,
    progress: bool = True,
    precision: str = "float32",
    ranks: Ranks | None = None,
    random_labels: bool = False,
    **settings,
) -> None:
    """Draw ``count`` images into ``path``: an npz whose ``arr_0`` is uint8 (N, H, W, 3).

    Equally many of each class, as VAR does, or with ``random_labels`` of random classes, as LlamaGen does.
    That is what the evaluator reads; grey is repeated. ``settings`` go to the sampler; ``size`` resizes the images
    (bicubic), as LlamaGen's of 384 pixels are reduced to 256. Models stay where they are. ``batch`` images are drawn
    at a time (None: ``sampling.images_at_once``), in ``precision``. Batch i draws from a generator with a seed of its
    own and is written to ``path`` + ".parts", so a call that was stopped goes on by the same call, with the same
    images. ``ranks`` share the batches, and whatever their number, the images are the same; each of them must call
    this, with a ``path`` that all can see. Returns at once if ``path`` is there, and was made by the same call.
    Raises ``ProtocolError`` for impossible numbers, or if samples drawn otherwise are there.
    """
    path, classes, ranks = Path(path), model.config.num_classes, ranks or Ranks()
    batch = images_at_once(model.config, precision) if batch is None else batch
    if min(count, batch) < 1 or (count % classes and not random_labels):
        raise ProtocolError(
            f"The samples must be equally many of each of {classes} classes, in batches of at least 1; got count "
            f"{count} and batch {batch}."
        )
    weights = [weights_fingerprint(part) for part in (tokenizer, model)]
    what = {"count": count, "batch": batch, "size": size, "seed": seed, "settings": settings, "weights": weights}
    what |= {} if precision == "float32" else {"precision": precision}
    what |= {"labels": "random"} if random_labels else {}
    folder, note = path.with_name(f"{path.name}.parts"), path.with_suffix(".json")
    check_note(note, what, path)
    if note.is_file() and path.is_file() and not folder.is_dir():
        return
    ranks.wait()  # until every rank has seen what was there
    if ranks.leads:
        write_atomically(note, lambda temporary: temporary.write_text(json.dumps(what, indent=1)))
        folder.mkdir(parents=True, exist_ok=True)
    ranks.wait()
    device = next(model.parameters()).device
    if precision == "float32":
        tokenizer, model = packed(tokenizer), packed(model)
    parts = labels_of(count, classes, seed if random_labels else None).split(batch)
    files = [folder / f"{number:06d}.npy" for number in range(len(parts))]
    mine = range(ranks.rank, len(parts), ranks.count)
    for number in tqdm(mine, desc="samples", disable=not (progress and ranks.leads)):
        if files[number].is_file():
            continue
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
        with computing(device, precision):
            drawn = generate(model, tokenizer, parts[number].to(device), generator, **settings)
        pixels = as_pixels(drawn.images, size)
        write_atomically(files[number], lambda temporary, pixels=pixels: save_array(temporary, pixels))
    ranks.wait()
    if ranks.leads:
        write_atomically(path, lambda temporary: _join(temporary, files, count))
        shutil.rmtree(folder)
    ranks.wait()


def check_note(note: Path, what: dict[str, object], path: Path) -> None:
    """Raise ``ProtocolError`` if the samples at ``path`` were drawn otherwise, as the note beside them says."""
    if note.is_file() and (found := json.loads(note.read_text())) != what:
        differing = ", ".join(key for key in {**what, **found} if found.get(key) != what.get(key))
        raise ProtocolError(f"{path} holds samples that were drawn otherwise ({differing}): choose another path.")


def labels_of(count: int, classes: int, seed: int | None) -> Tensor:
    """Classes int64 (count,): equally many of each, class by class, or with a ``seed`` random ones."""
    if seed is None:
        return torch.arange(count) * classes // count
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def as_pixels(images: Tensor, size: int | None = None) -> np.ndarray:
    """Images (B, 1 or 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), ``size`` pixels a side if given; grey is repeated."""
    images = images.float() * 2 - 1
    if size is not None and images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bicubic")
    return to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def save_array(path: Path, array: np.ndarray) -> None:
    """``np.save`` under exactly this name."""
    with open(path, "wb") as file:
        np.save(file, array)


def _join(path: Path, files: list[Path], count: int) -> None:
    """All parts as one array of an npz, without holding it: 50,000 pictures of 256 x 256 are 9.8 GB."""
    shape = (count, *np.load(files[0], mmap_mode="r").shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in files:
            file.write(np.load(part).tobytes())


def open_samples(path: Path | str) -> np.ndarray:
    """The pictures that ``write_samples`` wrote, uint8 (N, H, W, 3), read from the disk when they are looked at.

    An npz that is compressed, as others write them, is held in memory. Raises ``ProtocolError`` for any other file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("arr_0.npy")
            with archive.open(entry) as file:
                np.lib.format.read_magic(file)
                shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
                begin = file.tell()
        if dtype != np.uint8 or by_columns:
            raise ValueError(f"arr_0 is {dtype} {shape}")
        if entry.compress_type != zipfile.ZIP_STORED:
            return np.load(path)["arr_0"]
        with open(path, "rb") as file:  # before an entry the archive puts 30 bytes, its name, its extra field
            file.seek(entry.header_offset + 26)
            before = sum(np.frombuffer(file.read(4), "<u2").tolist()) + 30
        return np.memmap(path, np.uint8, "r", entry.header_offset + before + begin, shape)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ProtocolError(
            f"{path} holds no pictures ({error}): expected a folder of them, or an npz with arr_0, uint8 (N, H, W, "
            "3)."
        ) from error


def read_samples(path: Path | str, index: Sequence[int]) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape of all that ``write_samples`` wrote, and of it the pictures ``index``, uint8 (M, H, W, 3)."""
    pictures = open_samples(path)
    return pictures.shape, np.array(pictures[list(index)])
