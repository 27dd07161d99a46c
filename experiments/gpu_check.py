"""Everything that a GPU does differently, tried on the GPUs that are here: `make gpu-check`, about ten minutes.

python experiments/gpu_check.py                                   # all GPUs of this machine
python experiments/gpu_check.py --device cpu --quick     # in miniature, as the tests run it

Trains small models in every precision, compiled, on several processes, stopped and resumed, and compares losses; then
takes a few steps of a published preset, and draws with it, at the batch that the planner plans, and compares
memory and speed with the plan. Prints a table and writes it, with what the machine is, as Markdown that can be pasted
into an issue. Ends with 1 if something failed.
"""

import argparse
import dataclasses
import functools
import math
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from minivar import presets, sampling, training
from minivar.analysis import planner
from minivar.data import ArraySet
from minivar.distributed import Ranks, find_device
from minivar.models import build
from minivar.precision import autocast
from minivar.tokenizer import VQVAE
from minivar.training import loop

STAGES = ("tokenizer_train", "model_train")
SMALL = ["model.num_classes=2", "tokenizer_loss.gan_start=0.25"]
BATCH, IMAGES = 24, 96  # four steps an epoch
SMALL += [f"{stage}.{name}" for stage in STAGES for name in ("log_every=1", f"batch_size={BATCH}")]
EPOCHS = {"cpu": 2, "cuda": 20}
NEAR = {"tf32": 0.01, "bf16": 0.05, "fp16": 0.05}  # how far a loss may be from that of float32, relative


class Row(NamedTuple):
    """One line of the report."""

    what: str
    got: str
    expected: str
    verdict: str  # "ok", "FAILED", "not here", or "recorded" where there is nothing to compare with


class Machine(NamedTuple):
    """Where the checks run."""

    device: torch.device
    processes: int
    folder: Path  # for runs, emptied at the end
    pictures: Path  # a folder of images in two classes
    preset: str  # whose plan is compared


def main() -> int:
    """Run all checks, print the table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument("--processes", type=int, help="default: as many as there are GPUs, at most 8; on a CPU 2")
    parser.add_argument("--preset", default="var-d16", help="whose plan is compared (default: var-d16)")
    parser.add_argument("--quick", action="store_true", help="all of it with the preset folder-smoke")
    parser.add_argument("--out", type=Path, default=Path("gpu-report.md"), help="default: gpu-report.md")
    args = parser.parse_args()
    try:
        device = find_device(args.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    on_gpu = device.type == "cuda"
    processes = args.processes or (min(8, torch.cuda.device_count()) if on_gpu else 2)
    if args.quick:  # traced as for the real backend, without the minutes that a C++ compiler takes
        torch.compile = functools.partial(torch.compile, backend="aot_eager")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_pictures(folder / "pictures")
        preset = "folder-smoke" if args.quick else args.preset
        machine = Machine(device, processes, folder, folder / "pictures", preset)
        rows = [row for check in CHECKS for row in tried(check, machine)]
    text = report(rows, machine)
    args.out.write_text(text)
    print(text)
    failed = [row.what for row in rows if row.verdict == "FAILED"]
    compared = sum(row.verdict in ("ok", "FAILED") for row in rows)
    print(f"{compared} comparisons, {len(failed)} failed. The report is in {args.out}.")
    return 1 if failed else 0


def tried(check: Callable[[Machine], list[Row]], machine: Machine) -> list[Row]:
    """The rows of a check, or one that says what broke it."""
    started = time.time()
    try:
        rows = check(machine)
    except Exception as error:  # a check that breaks is a result
        rows = [
            Row(check.__name__.replace("_", " "), f"{type(error).__name__}: {str(error)[:200]}", "no error", "FAILED")
        ]
    print(f"{check.__name__}: {time.time() - started:.0f} s", file=sys.stderr)
    return rows


# Losses that must agree -------------------------------------------------------------------------------------------


def precisions(machine: Machine) -> list[Row]:
    """A few steps of tokenizer, discriminator and transformer in each precision, against float32."""
    rows = []
    for precision, near in NEAR.items():
        if machine.device.type != "cuda":
            rows.append(Row(f"training in {precision}", "-", "a GPU", "not here"))
            continue
        found, reference = (losses_here(machine, each, [f"precision={each}"]) for each in (precision, "float32"))
        rows += [agree(f"{phase} in {precision}", found[phase], reference[phase], near) for phase in reference]
    return rows


def compiled(machine: Machine) -> list[Row]:
    """The same compiled, the adaptive weight of the GAN among it."""
    plain = losses_here(machine, "float32", ["precision=float32"])
    found = losses_here(machine, "compiled", ["precision=float32", "compile=true"])
    return [agree(f"{phase} compiled", values, plain[phase], 5e-3) for phase, values in found.items()]


def several_processes(machine: Machine) -> list[Row]:
    """DDP and FSDP on all processes, against one, in the preset's precision: bf16 on GPUs.

    Only the first epoch is compared: what is drawn at random, such as new places for dead codes, differs with the
    number of processes, and its effects grow.
    """
    if machine.processes < 2:
        return [Row("several processes", "one GPU", "two", "not here")]
    one = command_losses(machine, "one", 1, "ddp")
    rows = []
    for strategy in ("ddp", "fsdp"):
        found = command_losses(machine, strategy, machine.processes, strategy)
        for phase, losses in one.items():
            first = slice(IMAGES // BATCH)
            row = agree(f"{phase}, {strategy} x {machine.processes}", found[phase][first], losses[first], 0.02)
            rows.append(row)
    return rows


def stopped_and_resumed(machine: Machine) -> list[Row]:
    """A run that gets SIGTERM saves, ends with 75, and goes on to the same losses."""
    whole = command_losses(machine, "one", 1, "ddp")
    started = start(machine, "stopped", 1, "ddp")
    log = machine.folder / "stopped" / "metrics.jsonl"
    while started.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    code = started.wait()
    row = Row("stopped by SIGTERM", f"exit code {code}", "exit code 75", "ok" if code == 75 else "FAILED")
    found = command_losses(machine, "stopped", 1, "ddp")
    return [row, *(agree(f"{phase} resumed", found[phase], whole[phase], 1e-3) for phase in whole)]


# Memory and speed against the plan ----------------------------------------------------------------------------------


def planned_training(machine: Machine) -> list[Row]:
    """Steps of the preset's transformer at the planned batch of one GPU: peak memory and images a second."""
    plan = planner.plan(machine.preset, 16, strategy="ddp")
    preset, batch = presets.get(machine.preset), plan["images per GPU at a time"]
    alone = {"batch_size": batch, "accumulate": 1, "epochs": 1000, "log_every": 1000, "checkpoint_every": 1000}
    train = dataclasses.replace(preset.model_train, **alone)
    torch.manual_seed(0)
    model = build(preset.model).to(machine.device)
    tokenizer = VQVAE(preset.tokenizer).to(machine.device)
    images = noise(preset, max(batch, 8))
    kind = training.GPTTask if hasattr(preset.model, "grid") else training.VARTask
    task = kind(model, tokenizer, images, machine.device)
    run = loop.Run(task, train, machine.folder / "planned", {}, Ranks(machine.device))
    run.model.train()
    reset_peak(machine)
    seconds = timed(machine, lambda: (run.forward_and_backward(0), run.update(0)))
    got, planned = peak(machine), plan["memory"]["sum"]
    rows = [
        Row(f"{machine.preset}: memory of {batch} images", gigabytes(got), f"about {gigabytes(planned)}", "not here")
    ]
    if got is not None:
        rows[0] = rows[0]._replace(verdict="ok" if got < 1.25 * planned else "FAILED")
    speed = f"{batch / seconds:.1f} images/s"
    rows.append(Row(f"{machine.preset}: speed of a training step", speed, "-", "recorded"))
    return rows


def planned_sampling(machine: Machine) -> list[Row]:
    """Guided images of the preset, as many at a time as their caches have room for."""
    preset = presets.get(machine.preset)
    precision = "bf16" if machine.device.type == "cuda" else "float32"
    count = sampling.images_at_once(preset.model, precision, most=100 if machine.device.type == "cuda" else 2)
    torch.manual_seed(0)
    model, tokenizer = (
        build(preset.model).to(machine.device).eval(),
        VQVAE(preset.tokenizer).to(machine.device).eval(),
    )
    labels = torch.arange(count, device=machine.device) % preset.model.num_classes
    settings = dataclasses.asdict(preset.sampling)
    reset_peak(machine)
    with autocast(machine.device, precision):
        seconds = timed(machine, lambda: sampling.generate(model, tokenizer, labels, **settings), repeats=2)
    caches = count * sampling.cache_bytes(preset.model, precision)  # the least that it can take
    drawn = Row(
        f"{machine.preset}: {count} images drawn at once", gigabytes(peak(machine)), gigabytes(caches), "recorded"
    )
    speed = f"{count / seconds:.2f} images/s"
    return [drawn, Row(f"{machine.preset}: drawing in {precision}", speed, "-", "recorded")]


def orders_of_convolutions(machine: Machine) -> list[Row]:
    """Forward and backward through the preset's tokenizer, weights channels last (``convolution_order``) or not."""
    preset, precision = presets.get(machine.preset), "bf16" if machine.device.type == "cuda" else "float32"
    images = noise(preset, 8).batch(slice(None))[0].to(machine.device)
    losses, seconds = [], []
    for order in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        tokenizer = VQVAE(preset.tokenizer).to(machine.device, memory_format=order)

        def step(tokenizer: VQVAE = tokenizer) -> float:
            with autocast(machine.device, precision):
                loss = tokenizer(images).reconstruction.float().square().mean()
            loss.backward()
            return loss.item()

        losses.append(step())
        seconds.append(timed(machine, step))
    row = agree("tokenizer, channels last", losses[1:], losses[:1], 0.05)
    return [row, Row("its speed, channels last", f"{seconds[0] / seconds[1]:.2f} x", "above 1", "recorded")]


CHECKS = (precisions, compiled, several_processes, stopped_and_resumed)
CHECKS += (planned_training, planned_sampling, orders_of_convolutions)


# Helpers ------------------------------------------------------------------------------------------------------------


def make_pictures(root: Path) -> None:
    """Two classes of images that a tokenizer can learn something from: blurred noise."""
    random = np.random.RandomState(0)
    for name in ("first", "second"):
        (root / name).mkdir(parents=True)
        for i in range(IMAGES // 2):
            small = Image.fromarray(random.randint(0, 255, (6, 6, 3), dtype=np.uint8))
            small.resize((40, 40), Image.Resampling.BICUBIC).save(root / name / f"{i:03d}.png")


def settings_of(machine: Machine, more: list[str]) -> list[str]:
    """Overrides of folder-smoke, for both stages: as many epochs as a signal needs to come in the middle."""
    epochs = f"epochs={EPOCHS[machine.device.type]}"
    return [*SMALL, *(f"{stage}.{setting}" for stage in STAGES for setting in (epochs, *more))]


def losses_here(machine: Machine, name: str, more: list[str]) -> dict[str, list[float]]:
    """The losses of both phases of a small run in this process; of the same name, it is found in its folder."""
    preset = presets.get("folder-smoke", settings_of(machine, more))
    images, out = presets.training_set(preset, machine.pictures), machine.folder / name
    tokenizer = training.train_tokenizer(preset, images, out, machine.device, progress=False)
    training.train_model(preset, tokenizer, images, out, machine.device, progress=False)
    return losses_in(out)


def start(machine: Machine, name: str, processes: int, strategy: str) -> subprocess.Popen:
    """`minivar train` as a user starts it."""
    words = ["-m", "minivar.cli", *command(machine, name, strategy)]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def command(machine: Machine, name: str, strategy: str) -> list[str]:
    """What follows `minivar` on the command line."""
    words = ["train", "--preset", "folder-smoke", "--device", machine.device.type]
    words += ["--data", str(machine.pictures), "--out", str(machine.folder / name), "--strategy", strategy]
    return words + [word for setting in settings_of(machine, []) for word in ("--set", setting)]


def command_losses(machine: Machine, name: str, processes: int, strategy: str) -> dict[str, list[float]]:
    """The losses of a small run by the command line, if there is none of the name; an error if it fails."""
    finished = (machine.folder / name / "var.safetensors").is_file()
    if not finished and (code := start(machine, name, processes, strategy).wait()):
        raise RuntimeError(f"minivar train ended with {code} on {processes} processes with {strategy}")
    return losses_in(machine.folder / name)


def losses_in(out: Path) -> dict[str, list[float]]:
    """Losses by phase from a log."""
    found: dict[str, list[float]] = {}
    for entry in training.read_log(out / "metrics.jsonl"):
        found.setdefault(entry["phase"], []).append(entry["loss"])
    return found


def agree(what: str, got: list[float], expected: list[float], near: float) -> Row:
    """A row that says by how much two curves of losses differ at most, relative to the second."""
    if len(got) != len(expected) or not all(map(math.isfinite, got)):
        return Row(what, f"{len(got)} entries, last {got[-1:]}", f"{len(expected)} finite ones", "FAILED")
    apart = max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True))
    return Row(what, f"losses apart by {apart:.1e}", f"at most {near:.0e}", "ok" if apart <= near else "FAILED")


def noise(preset, count: int) -> ArraySet:
    """Random images of the preset's size and classes."""
    channels, size = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size
    random = np.random.RandomState(0)
    pixels = random.randint(0, 255, (count, channels, *size), dtype=np.uint8)
    classes = preset.model.num_classes
    return ArraySet(pixels, random.randint(0, classes, count), [str(i) for i in range(classes)])


def timed(machine: Machine, work: Callable, repeats: int = 4) -> float:
    """Seconds of one call, the first of which is not counted."""
    work()
    wait(machine)
    started = time.time()
    for _ in range(repeats - 1):
        work()
    wait(machine)
    return (time.time() - started) / (repeats - 1)


def wait(machine: Machine) -> None:
    """Until the GPU has done what it was given."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def reset_peak(machine: Machine) -> None:
    """Measure the peak of memory from here on."""
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)


def peak(machine: Machine) -> int | None:
    """Bytes at the peak since ``reset_peak``; None where nobody counts them."""
    return torch.cuda.max_memory_allocated(machine.device) if machine.device.type == "cuda" else None


def gigabytes(number: int | None) -> str:
    """For the table."""
    return "-" if number is None else f"{number / 1e9:.2f} GB"


def report(rows: list[Row], machine: Machine) -> str:
    """Markdown: what the machine is, and the table."""
    name = (
        torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else platform.processor() or "CPU"
    )
    lines = [
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
        f"{machine.processes} x {name}; preset {machine.preset}",
        "",
        "| check | got | expected | |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
