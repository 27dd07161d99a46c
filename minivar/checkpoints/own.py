"""minivar's own checkpoint format: one safetensors file a model, whose header holds its kind and configuration."""

import dataclasses
import hashlib
import json
import os
import tempfile
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minivar.metrics import ClassifierConfig, DigitClassifier
from minivar.raster import GPT, GPTConfig
from minivar.tokenizer import VQVAE, TokenizerConfig
from minivar.transformer import VAR, VARConfig

State = Mapping[str, Tensor]
CHECKSUM = "crc32"  # its name in the header
KINDS = {
    "VQVAE": (VQVAE, TokenizerConfig),
    "VAR": (VAR, VARConfig),
    "GPT": (GPT, GPTConfig),
    "DigitClassifier": (DigitClassifier, ClassifierConfig),
}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, does not fit, or could not be written."""


def write_tensors(path: Path, tensors: State, metadata: Mapping[str, object]) -> None:
    """Write a safetensors file so that ``path`` holds either the old content or all of the new.

    ``metadata`` values are stored as JSON in the header, with a checksum of all of it. Raises ``CheckpointError`` if
    the file cannot be written, for instance because the disk is full; the previous file is then untouched.
    """
    header = {key: json.dumps(value) for key, value in metadata.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    header[CHECKSUM] = json.dumps(checksum(tensors, header))
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=header))


def checksum(tensors: State, header: Mapping[str, str]) -> int:
    """CRC-32 of the contiguous CPU ``tensors``, their names, types and shapes, and the rest of the ``header``."""
    crc = zlib.crc32(json.dumps(sorted((key, text) for key, text in header.items() if key != CHECKSUM)).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.flatten().view(torch.uint8).numpy().data, crc)
    return crc


def sha256(path: Path) -> str:
    """SHA-256 of a file of any kind, in hexadecimal; it is read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary file beside ``path``, sync it to disk, then rename it to ``path``."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Could not write {path} ({error}); what was there before is untouched.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a file written by ``write_tensors``; ``CheckpointError`` if missing or damaged.

    A file without a checksum, from before there was one, is read without that comparison.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}: expected a .safetensors file there.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            metadata = {key: json.loads(value) for key, value in header.items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete minivar checkpoint: expected a whole safetensors file, got {error}."
        ) from error
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and (found := checksum(tensors, header)) != expected:
        raise CheckpointError(
            f"{path} was damaged after it was written: got content with the checksum {found}, expected {expected}."
        )
    return tensors, metadata


def save(model: nn.Module, path: Path, state: State | None = None, **extra: object) -> None:
    """Write a model with its configuration; ``extra`` (JSON-able) goes into the header beside it.

    ``state`` are other weights of the same model: averaged ones, or gathered from several processes.
    """
    kind = next(name for name, (model_class, _) in KINDS.items() if isinstance(model, model_class))
    metadata = {"format": "minivar-1", "kind": kind, "config": dataclasses.asdict(model.config), **extra}
    write_tensors(path, model.state_dict() if state is None else state, metadata)


def load(path: Path, kind: str | None = None) -> tuple[nn.Module, dict]:
    """Read a model written by ``save``: (model in eval mode, header). ``kind`` names the class that is expected.

    Tensors that were stored in float16, to save space, come back in float32.
    """
    tensors, header = read_tensors(path)
    found = header.get("kind")
    if found not in KINDS or kind not in (None, found):
        raise CheckpointError(f"{path} holds a {found}; expected {kind or ' or '.join(KINDS)}.")
    tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    model_class, config_class = KINDS[found]
    try:
        with torch.device("meta"):
            model = model_class(config_from_dict(config_class, header["config"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no configuration that fits a {found}; got {error!r}.") from error
    load_strictly(model, tensors, {name: name for name in model.state_dict()}, str(path))
    return model.eval(), header


def load_pair(directory: Path) -> tuple[VQVAE, VAR | GPT, dict]:
    """Tokenizer, transformer and the transformer's header from a directory that training (or minivar) filled."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(
            f"No checkpoint directory at {directory}: expected one with tokenizer.safetensors and var.safetensors "
            "(or gpt.safetensors)."
        )
    tokenizer, _ = load(directory / "tokenizer.safetensors", "VQVAE")
    raster = (directory / "gpt.safetensors").is_file()
    if raster and (directory / "var.safetensors").is_file():
        raise CheckpointError(
            f"{directory} holds var.safetensors and gpt.safetensors; expected one transformer a directory."
        )
    name, kind = ("gpt", "GPT") if raster else ("var", "VAR")
    model, header = load(directory / f"{name}.safetensors", kind)
    check_pair(tokenizer.config, model.config, f" in {directory}")
    return tokenizer, model, header


def check_pair(tokenizer: TokenizerConfig, model: VARConfig | GPTConfig, where: str = "") -> None:
    """Raise ``CheckpointError`` unless the transformer speaks the tokenizer's language."""
    if isinstance(model, GPTConfig):
        what = "(quantizer, grid, V)"
        theirs = ("single", model.grid or tokenizer.latent_grid, model.codebook_size)
        ours = (tokenizer.quantizer, tokenizer.latent_grid or model.grid, tokenizer.codebook_size)
    else:
        what = "(quantizer, grids, V, C)"
        theirs = ("multi-scale", model.schedule.grids, model.codebook_size, model.code_dim)
        grids = tokenizer.schedule and tokenizer.schedule.grids  # None for a single-scale tokenizer
        ours = (tokenizer.quantizer, grids, tokenizer.codebook_size, tokenizer.code_dim)
    if ours != theirs:
        raise CheckpointError(
            f"Tokenizer and transformer{where} do not belong together: {what} is {ours} in the tokenizer, and the "
            f"transformer expects {theirs}."
        )


def config_from_dict(cls, data):
    """Rebuild a (nested) frozen dataclass from ``dataclasses.asdict`` after a trip through JSON."""
    hints = typing.get_type_hints(cls)

    def restore(hint, value):
        if isinstance(hint, types.UnionType) and value is not None:
            hint = next((option for option in hint.__args__ if dataclasses.is_dataclass(option)), None)
        if dataclasses.is_dataclass(hint):
            return config_from_dict(hint, value)
        return tuple(restore(None, v) for v in value) if isinstance(value, list | tuple) else value

    return cls(**{key: restore(hints[key], value) for key, value in data.items()})


def load_strictly(model: nn.Module, state: State, names: Mapping[str, str], source: str, constants=None) -> None:
    """Give the model the tensors of ``state``; ``names``: own name -> name in ``state``, used in the error.

    ``state`` may hold ``constants``, which are not loaded, but must have the right shape.
    """
    constants = constants or {}
    own = model.state_dict() | constants
    names = {**names, **{key: key for key in constants if key in state}}
    missing = [theirs for theirs in names.values() if theirs not in state]
    unexpected = sorted(set(state) - set(names.values()))
    wrong = [
        f"{theirs} has shape {tuple(state[theirs].shape)}, expected {tuple(own[ours].shape)}"
        for ours, theirs in names.items()
        if theirs in state and state[theirs].shape != own[ours].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    if any(problems.values()):
        parts = [
            f"{title}: {', '.join(entries[:3])}" + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")
            for title, entries in problems.items()
            if entries
        ]
        raise CheckpointError(f"The checkpoint {source} does not fit; {'; '.join(parts)}.")
    learned = {ours: state[theirs] for ours, theirs in names.items() if ours not in constants}
    model.load_state_dict(learned, assign=True)
    model.requires_grad_(True)
