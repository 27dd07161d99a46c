"""The state of a run on disk: what a restart needs.

One process, or several with DDP, keep everything in one safetensors file, written atomically. Where FSDP has spread
the model, every rank writes its own shard with ``torch.distributed.checkpoint``, into a folder of its own for each
saved step, and a small file that is replaced atomically says which folder is whole. Either kind can be resumed by any
number of ranks. The one file carries a checksum, and ``latest.json`` those of the shards.
Explained in ``notebooks/06_training.ipynb`` and ``notebooks/13_imagenet.ipynb``.
"""

import json
import shutil
import textwrap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minivar.distributed import Ranks
from minivar.files import read_tensors, sha256, write_atomically, write_tensors
from minivar.training import parallel
from minivar.training.config import FREE_TO_CHANGE, TrainingError


@dataclass
class Parts:
    """What is saved of a run: models with their optimisers, averages of the first one's weights, the loss's scale."""

    models: dict[str, tuple[nn.Module, torch.optim.Optimizer]]  # "model", and a GAN's "discriminator"
    ema: dict[str, Tensor]  # empty: none
    scaler: torch.amp.GradScaler  # not enabled: there is nothing to save of it

    @property
    def sharded(self) -> bool:
        """Whether FSDP has spread the model."""
        return parallel.is_sharded(self.models["model"][0])


def save_state(path: Path, parts: Parts, run: dict, step: int, ranks: Ranks) -> Callable[[], None]:
    """Begin to write everything that a restart needs; returns what waits until it is written, and raises if it fails.

    A thread writes a copy of this moment, which is made before this returns: training may go on beside it. Every rank
    must call both this and, before the next state, what it returns; until then the state before counts. ``path`` is
    ``NAME.state.safetensors``.
    """
    rng = {"cpu": ranks.gather(torch.get_rng_state())}
    if ranks.device.type == "cuda":
        rng["cuda"] = ranks.gather(torch.cuda.get_rng_state(ranks.device))
    tensors = {f"rng.{kind}.{rank}": value for kind, values in rng.items() for rank, value in enumerate(values)}
    header = {"step": step, "run": run, "ranks": ranks.count}
    if parts.sharded:
        return _save_shards(path, parts, header, tensors, ranks)
    if not ranks.leads:
        return ranks.wait
    for name, (model, optimizer) in parts.models.items():
        tensors |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.optimizer/{index}/{key}": value for key, value in moments.items()}
    tensors |= {f"ema.{key}": value for key, value in parts.ema.items()}
    tensors |= _scale_of(parts)
    copies = {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
    writing = _in_background(write_tensors, path, copies, header)

    def finish() -> None:
        writing.result()
        if _pointer(path).is_file():  # shards of more ranks, now older than the file
            _pointer(path).unlink()
            shutil.rmtree(_pointer(path).parent)
        ranks.wait()

    return finish


def _in_background(work: Callable, *arguments: object) -> Future:
    """``work`` in a thread of its own, which Python waits for at its end, whatever becomes of the training."""
    thread = ThreadPoolExecutor(1)
    future = thread.submit(work, *arguments)
    thread.shutdown(wait=False)
    return future


def restore_state(path: Path, parts: Parts, run: dict, ranks: Ranks) -> int:
    """Load what ``save_state`` wrote, with any number of ranks; the step to go on from, 0 if there is no state.

    Raises ``TrainingError`` for the state of another run, ``ValueError`` for one that is damaged or does not fit.
    """
    pointer = _pointer(path)
    if not pointer.is_file() and not path.is_file():
        return 0
    if pointer.is_file():
        header = _read_pointer(pointer)
    else:
        tensors, header = read_tensors(path)
    if not {"step", "run", "ranks"} <= header.keys():
        raise TrainingError(f"{path} is not the state of a run; expected step, run and ranks, got {[*header]}.")
    theirs = header["run"]
    train = {key: value for key, value in theirs.get("train", {}).items() if key not in FREE_TO_CHANGE}
    if differing := differences({**theirs, "train": train}, run):
        raise TrainingError(
            f"{path} belongs to a run with another configuration ({differing}): choose another output folder, or "
            "the same configuration to resume."
        )
    if pointer.is_file():
        folder = pointer.parent / header["folder"]
        _check_shards(folder, header.get("sha256", {}), ranks)
        tensors = _load_shards(folder, header["rng"], parts)
    elif parts.sharded:
        raise TrainingError(
            f"{path} was written without FSDP: expected --strategy ddp, or one process, to resume it."
        )
    else:
        try:
            _load_whole(tensors, parts)
        except (RuntimeError, ValueError, KeyError) as error:  # torch's words have a line for each tensor
            what = textwrap.shorten(str(error), 300)
            raise TrainingError(f"{path} does not fit; expected what this minivar writes, got: {what}") from error
    if header["ranks"] == ranks.count:
        torch.set_rng_state(tensors[f"rng.cpu.{ranks.rank}"])
        if ranks.device.type == "cuda" and f"rng.cuda.{ranks.rank}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{ranks.rank}"], ranks.device)
    else:  # other ranks draw other numbers: start them anew, reproducibly
        torch.manual_seed((header["step"] * 1_000_003 + ranks.count) * 1_000_003 + ranks.rank)
    return header["step"]


def _load_whole(tensors: dict[str, Tensor], parts: Parts) -> None:
    for name, (model, optimizer) in parts.models.items():
        prefix, state, moments = f"{name}.", {}, {}
        for key, value in tensors.items():
            if key.startswith(f"{name}.optimizer/"):
                _, index, moment = key.split("/")
                moments.setdefault(int(index), {})[moment] = value
            elif key.startswith(prefix):
                state[key.removeprefix(prefix)] = value
        model.load_state_dict(state)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for key, value in parts.ema.items():
        value.copy_(tensors[f"ema.{key}"])
    for key in _scale_of(parts):
        _set_scale(parts, tensors[key])


def _scale_of(parts: Parts) -> dict[str, Tensor]:
    """The scale of the loss, and how many good steps it has had; empty without fp16."""
    state = parts.scaler.state_dict()
    return {"scaler": torch.tensor([state["scale"], state["_growth_tracker"]])} if state else {}


def _set_scale(parts: Parts, saved: Tensor) -> None:
    scale, good_steps = saved.tolist()
    state = {**parts.scaler.state_dict(), "scale": scale, "_growth_tracker": int(good_steps)}
    parts.scaler.load_state_dict(state)


# Shards: out/NAME.state/step-STEP/, and out/NAME.state/latest.json, which names the folder that is whole ------------


def _pointer(path: Path) -> Path:
    return path.with_suffix("") / "latest.json"


def _read_pointer(pointer: Path) -> dict:
    text = pointer.read_text(errors="replace")
    with suppress(json.JSONDecodeError):
        header = json.loads(text)
        if isinstance(header, dict) and (pointer.parent / str(header.get("folder"))).is_dir():
            return header
    raise TrainingError(f"{pointer} is damaged: expected JSON that names a folder beside it, got {text[:40]!r}.")


def _save_shards(path: Path, parts: Parts, header: dict, rng: dict[str, Tensor], ranks: Ranks) -> Callable[[], None]:
    folder = _pointer(path).parent / f"step-{header['step']:08d}"
    extra = {"ema": parts.ema, "rng": rng, **_scale_of(parts)}
    from minivar.training import sharding  # as in parallel.py

    shards = sharding.begin_shards(folder, *parts.models["model"], extra)

    def written() -> dict[str, str]:
        shards()
        return {path.name: sha256(path) for path in _written_by(ranks, folder)}

    writing = _in_background(written)

    def finish() -> None:
        checksums = {}
        for found in ranks.gather(writing.result()):
            checksums |= found
        if ranks.leads:
            text = json.dumps({**header, "folder": folder.name, "rng": sorted(rng), "sha256": checksums})
            write_atomically(_pointer(path), lambda temporary: temporary.write_text(text))
            for other in folder.parent.glob("step-*"):
                if other != folder:
                    shutil.rmtree(other)
        ranks.wait()

    return finish


def _written_by(ranks: Ranks, folder: Path) -> list[Path]:
    """The files of this rank, by the names that ``torch.distributed.checkpoint`` gives them."""
    return [*folder.glob(f"__{ranks.rank}_*"), *(folder.glob(".metadata") if ranks.leads else ())]


def _check_shards(folder: Path, checksums: dict[str, str], ranks: Ranks) -> None:
    """Raise ``TrainingError`` on every rank if a file is not what was written; each rank reads a part of them."""
    mine = [name for name in sorted(checksums)[ranks.rank :: ranks.count] if (folder / name).is_file()]
    damaged = [name for name in mine if sha256(folder / name) != checksums[name]]
    for found in ranks.gather(damaged):
        if found:
            raise TrainingError(
                f"{folder / found[0]} was damaged after it was written: expected the SHA-256 in latest.json beside "
                "its folder, got another."
            )


def _load_shards(folder: Path, names: list[str], parts: Parts) -> dict[str, Tensor]:
    """Fill ``parts``; returns the random states ``names``."""
    kinds = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        kinds["cuda"] = torch.cuda.get_rng_state()
    blank = {name: torch.empty_like(kinds[kind]) for name in names if (kind := name.split(".")[1]) in kinds}
    extra = {"ema": parts.ema, "rng": blank, **_scale_of(parts)}
    from minivar.training import sharding  # as in parallel.py

    sharding.load_shards(folder, *parts.models["model"], extra)
    if "scaler" in extra:
        _set_scale(parts, extra["scaler"])
    return extra["rng"]


def differences(old: dict, new: dict, prefix: str = "") -> str:
    """What two runs differ in, as a person would like to read it; empty for equal ones."""
    parts = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            nested = differences(a, b, f"{prefix}{key}.")
            parts += [nested] if nested else []
        elif a != b:
            parts.append(f"{prefix}{key}: {a} there, {b} asked for")
    return ", ".join(parts)
