"""What the distributed tests start in several processes: small next-scale runs in a row, their logs the result."""

import dataclasses
import functools
import itertools
import os
import signal

import torch
import torch.distributed as dist
from conftest import tokenizer_config, var_config, wake
from test_train import TINY, blobs
from test_validation import heldout

from minivar import distributed, presets, training
from minivar.models import VAR, DiTConfig, GPTConfig, MaskGITConfig, build
from minivar.tokenizer import VQVAE
from minivar.training import VARTask
from minivar.training.stages import TASKS


def rank() -> int:
    return int(os.environ.get("RANK", 0))


class Fragile(VARTask):
    """Kills its own process, rank 1, at a step, once: a file remembers."""

    at, marker = None, None

    def after_step(self, step: int) -> None:
        if self.at is not None and step == self.at and rank() == 1 and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


class Collectives:
    """Writes every call between processes, with the shape of what travels, into a file of this rank and run."""

    def __init__(self) -> None:
        self.path = os.devnull
        for name in ("all_reduce", "broadcast", "barrier", "all_gather_object"):
            setattr(dist, name, functools.partial(self.call, name, getattr(dist, name)))

    def call(self, name, original, *args, **kwargs):
        travels = next((tuple(each.shape) for each in args if isinstance(each, torch.Tensor)), "")
        with open(self.path, "a") as file:
            print(name, travels, file=file)
        return original(*args, **kwargs)


SHAPE = {"depth": 2, "width": 32, "heads": 2, "num_classes": 5, "label_dropout": 0.0}
GRID = {"grid": (4, 4), "codebook_size": 16, "gamma_init": 0.1, **SHAPE}
OTHERS = {
    "raster": GPTConfig(style="var", conditioning="adaln", dropout=0.0, **GRID),
    "maskgit": MaskGITConfig(drop_path=0.0, **GRID),
    "dit": DiTConfig(channels=4, input_size=4, patch=1, **SHAPE),
}


def task_of(name: str):
    """The models that are not VAR, each with the tokenizer of one grid."""
    torch.manual_seed(0)
    model = build(OTHERS[name])
    single = wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))
    task = TASKS[type(model)](model, single, blobs(), validation=heldout(20))
    task.sampling = {"steps": 2} if name != "raster" else {}
    return task


def train(ranks: distributed.Ranks, out: str, strategy: str, *settings: str) -> None:
    others = [setting.partition("=")[2] for setting in settings if setting.startswith("model=")]
    settings = [setting for setting in settings if not setting.startswith("model=")]
    kills = [setting for setting in settings if setting.startswith("kill_at=")]
    Fragile.at, Fragile.marker = int(kills[0].partition("=")[2]) if kills else None, f"{out}.killed"
    changes = presets.parse_settings(TINY, [setting for setting in settings if setting not in kills])
    config = dataclasses.replace(TINY, **changes)
    if ranks.count > 1:
        ranks = dataclasses.replace(ranks, strategy=strategy)
    torch.manual_seed(0)
    if others:
        task = task_of(others[0])
    else:
        model = VAR(var_config(label_dropout=0.0, drop_path=0.0, gamma_init=0.1))
        task = Fragile(model, wake(VQVAE(tokenizer_config())), blobs(), validation=heldout(20))
    training.fit(task, config, out, progress=False, ranks=ranks)


def main(words: list[str]) -> None:
    """``OUT STRATEGY [name=value of TrainConfig ...] [-- OUT ...]``."""
    # compiled runs are traced as for the real backend, without the code that a compiler would make of it
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    said = Collectives()
    jobs = [list(group) for end, group in itertools.groupby(words, lambda word: word == "--") if not end]
    with distributed.join_ranks("cpu") as ranks:
        for job in jobs:
            said.path = f"{job[0]}.collectives.{rank()}"
            train(ranks, *job)
