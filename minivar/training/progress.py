"""What a person watches while a model trains: bar, log, pictures, TensorBoard, a forecast after the first steps."""

import json
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from minivar.distributed import mean_over_ranks
from minivar.files import write_atomically
from minivar.training.config import TrainingError

FORECAST_AFTER = 5  # steps: the first ones are slower


class Watch:
    """Collects the numbers of each step, and every ``log_every`` steps writes their means where they are looked at.

    ``log_path`` is the ``metrics.jsonl``, None on a process that does not write. Pictures lie beside it, the newest
    ones in ``NAME.png``. Where the package ``tensorboard`` is installed, ``tensorboard/NAME/`` gets the numbers too,
    and all pictures. Raises ``TrainingError`` where one of them cannot be written, for instance on a full disk.
    """

    def __init__(self, name: str, log_path: Path | None, first: int, steps: int, config, progress: bool) -> None:
        self.name, self.log_path, self.first, self.steps, self.config = name, log_path, first, steps, config
        self.started, self.started_cpu = time.time(), time.process_time()
        self.sums: dict[str, Tensor] = {}
        self.counted = 0
        self.progress = progress
        self.bar = tqdm(total=steps, initial=first, desc=name, unit="step", disable=not progress, mininterval=2)
        self.board = None

    @property
    def seconds(self) -> float:
        """Since this call began."""
        return time.time() - self.started

    def step(self, done: int, stats: dict[str, Tensor]) -> dict | None:
        """Take the numbers of a step; where an entry is due, the means since the last one, over all ranks.

        Every rank must call it. The numbers stay where they were computed until then: all means travel between ranks
        together, and are the one thing that the CPU waits for.
        """
        for key, value in stats.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.counted += 1
        self.bar.update()
        if done == min(self.first + FORECAST_AFTER, self.steps):
            self._forecast(done)
        if done % self.config.log_every and done != self.steps:
            return None
        shapes = {key: value.shape for key, value in self.sums.items()}
        flat = torch.cat([value.reshape(-1) for value in self.sums.values()]) / self.counted
        numbers = mean_over_ranks(flat).cpu().split([shape.numel() for shape in shapes.values()])
        entry = {key: part.view(shapes[key]).tolist() for key, part in zip(shapes, numbers, strict=True)}
        self.sums, self.counted = {}, 0
        return entry

    def write(self, done: int, entry: dict) -> None:
        """Bar, ``metrics.jsonl`` and TensorBoard."""
        rate = (done - self.first) * self.config.batch_size / self.seconds
        shown = {key: f"{entry[key]:.3f}" for key in ("loss", "accuracy", "mse") if key in entry}
        self.bar.set_postfix(shown | {"images/s": f"{rate:.0f}"})
        if self.log_path is None:
            return
        # cpu_seconds, summed over threads, does not grow when other jobs share the machine
        spent = {"seconds": self.seconds, "cpu_seconds": time.process_time() - self.started_cpu}
        append_log(self.log_path, {"phase": self.name, "step": done, **spent, **entry})
        with self._board() as writer:
            for key, value in entry.items() if writer else ():
                for i, number in enumerate(value if isinstance(value, list) else [value]):
                    tag = f"{self.name}/{key}" + (f"/{i + 1}" if isinstance(value, list) else "")
                    writer.add_scalar(tag, number, done)

    def show(self, done: int, pictures: Tensor | None) -> None:
        """Write pictures (rows, columns, 1 or 3, height, width) in [0, 1] as one grid; None: there are none."""
        if pictures is None or self.log_path is None:
            return
        from torchvision.utils import make_grid, save_image  # here, because it takes seconds

        grid = make_grid(pictures.flatten(0, 1), nrow=pictures.shape[1], padding=1, pad_value=0.5)
        path = self.log_path.with_name(f"{self.name}.png")
        write_atomically(path, lambda temporary: save_image(grid, temporary, format="png"))
        with self._board() as writer:
            if writer:
                writer.add_image(f"{self.name}/pictures", grid, done)

    @contextmanager
    def _board(self):
        """The TensorBoard writer, opened when it is first needed and flushed after each use; False: there is none."""
        folder = self.log_path.parent / "tensorboard" / self.name
        with writing(folder):
            if self.board is None:
                self.board = board(folder, self.first) or False
            yield self.board
            if self.board:
                self.board.flush()  # a run that is killed has in here what it has in metrics.jsonl

    def close(self) -> None:
        """End the bar and TensorBoard's file."""
        self.bar.close()
        if self.board:
            with suppress(OSError):  # what could not be written has been said
                self.board.close()

    def _forecast(self, done: int) -> None:
        if not self.progress or done == self.steps:
            return
        minutes = self.seconds / (done - self.first) * (self.steps - self.first) / 60
        tqdm.write(
            f"{self.name}: {self.steps} steps, about {minutes:.0f} minutes, {peak_memory():.1f} GB at the peak."
        )


def peak_memory() -> float:
    """GB: of the GPU where there is one, else of the process (0 on Windows, which does not tell)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def board(folder: Path, first: int):
    """A TensorBoard writer into ``folder`` for a run that goes on after step ``first``; None without the package.

    What an earlier process wrote there about later steps is hidden: those steps are about to be done again. This
    concerns a whole folder, so each phase of a run has one of its own.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=first + 1)


# The log ------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict]:
    """Entries of a ``metrics.jsonl``; a line that a kill cut short, or that was damaged, is ignored."""
    entries = []
    for line in Path(path).read_text(errors="replace").splitlines() if Path(path).is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and {"phase", "step"} <= entry.keys():
            entries.append(entry)
    return entries


def rewind_log(path: Path, phase: str, step: int) -> None:
    """Drop entries of this phase that lie after the checkpoint: they are about to be written again."""
    entries = read_log(path)
    kept = [entry for entry in entries if entry["phase"] != phase or entry["step"] <= step]
    text = "".join(json.dumps(entry) + "\n" for entry in kept)
    if path.is_file() and path.read_text(errors="replace") != text:  # an entry too many, or half a line
        write_atomically(path, lambda temporary: temporary.write_text(text))


def append_log(path: Path, entry: dict) -> None:
    """One more line."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")


@contextmanager
def writing(path: Path):
    """Say what could not be written, and what is left."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"Could not write {path} ({error}); the last checkpoint, if there is one, is kept, and the same command "
            "goes on from there."
        ) from error
