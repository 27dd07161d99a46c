"""Files that are whole or not there: atomic writes, checksums, tensors with a header, state dicts without pickle.

Our own tensors lie in safetensors files, whose header holds JSON and a checksum. Published ones are pickled state
dicts, which are read with ``weights_only=True``: nothing in them is ever executed.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import tempfile
import types
import typing
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

State = Mapping[str, Tensor]

CHECKSUM = "crc32"  # its name in the header


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, does not fit, or could not be written."""


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


def write_tensors(path: Path, tensors: State, metadata: Mapping[str, object]) -> None:
    """Write a safetensors file so that ``path`` holds either the old content or all of the new.

    ``metadata`` values are stored as JSON in the header, with a checksum of all of it. Raises ``CheckpointError`` if
    the file cannot be written, for instance because the disk is full; the previous file is then untouched.
    """
    header = {key: json.dumps(value) for key, value in metadata.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    header[CHECKSUM] = json.dumps(checksum(tensors, header))
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=header))


def read_tensors(path: Path, verify: bool = True) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a file written by ``write_tensors``; ``CheckpointError`` if missing or damaged.

    Every such file has a checksum, but for those from before there was one. Without it nobody can tell whether the
    weights are those that were trained, and to read it all the same would let damage to five bytes of the header, the
    checksum's name, pass. So it is refused, unless ``verify`` is False: whoever trusts the file writes it anew once.
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
    if verify and header and expected is None:
        raise CheckpointError(
            f"{path} has no checksum, expected one: it is damaged, or from before minivar had them; if you trust it, "
            "write it anew with files.write_tensors(path, *files.read_tensors(path, verify=False))."
        )
    if verify and header and (found := checksum(tensors, header)) != expected:
        raise CheckpointError(
            f"{path} was damaged after it was written: got content with the checksum {found}, expected {expected}."
        )
    return tensors, metadata


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


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's configuration and parameters: where it is the same, so are the tokens of an image.

    Buffers, such as statistics of the codebook's use, do not count, but for those that the model names in
    ``measured``; neither does the device.
    """
    config = dataclasses.asdict(model.config) if hasattr(model, "config") else None  # ``Pixels`` has none
    digest = hashlib.sha256(json.dumps(config).encode())
    measured = [(name, model.get_buffer(name)) for name in getattr(model, "measured", ())]
    for name, tensor in [*model.named_parameters(), *measured]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def read_state_dict(source: State | str | Path, *keys: str) -> State:
    """A bare state dict, from a state dict, a file that holds one under some of ``keys``, or the path of either."""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise CheckpointError(f"No checkpoint at {source}: expected a published .pth file.")
        try:
            mmap = zipfile.is_zipfile(source)  # files from before PyTorch 1.6 are not, and are read whole
            with torch.serialization.safe_globals([argparse.Namespace]):  # attributes alone: LlamaGen's trainer's
                source = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # torch.load raises many kinds for damaged files
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{source} is not a readable PyTorch checkpoint: {reason}") from error
    for key in keys:
        if isinstance(source, Mapping) and isinstance(source.get(key), Mapping):
            source = source[key]
    if not isinstance(source, Mapping) or not source or not all(isinstance(v, Tensor) for v in source.values()):
        raise CheckpointError(
            f"Expected a state dict, names to tensors, bare or under one of {', '.join(map(repr, keys))}."
        )
    return source


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
