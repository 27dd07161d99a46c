"""What the distributed tests start under torchrun: a small next-scale run, and its log as the result.

torchrun --nproc-per-node N tests/distributed_run.py OUT STRATEGY [name=value of TrainConfig ...]
"""

import dataclasses
import functools
import os
import signal
import sys

import torch
import torch.distributed as dist
from conftest import tokenizer_config, var_config, wake
from test_train import TINY, blobs
from test_validation import heldout

from minivar import distributed, presets, training
from minivar.models import VAR
from minivar.tokenizer import VQVAE
from minivar.training import VARTask

torch.set_num_threads(1)


class Fragile(VARTask):
    """Kills its own process, rank 1, at a step, once: a file remembers."""

    at, marker = None, None

    def after_step(self, step: int) -> None:
        rank = int(os.environ.get("RANK", 0))
        if self.at is not None and step == self.at and rank == 1 and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


def write_down_collectives(out: str) -> None:
    """Every call between processes goes, with the shape of what travels, into a file of this rank."""
    path = f"{out}.collectives.{os.environ.get('RANK', 0)}"
    for name in ("all_reduce", "broadcast", "barrier", "all_gather_object"):
        original = getattr(dist, name)

        def watched(*args, name=name, original=original, **kwargs):
            travels = next((tuple(each.shape) for each in args if isinstance(each, torch.Tensor)), "")
            with open(path, "a") as file:
                print(name, travels, file=file)
            return original(*args, **kwargs)

        setattr(dist, name, watched)


def main(out: str, strategy: str, *settings: str) -> None:
    write_down_collectives(out)
    if (
        "compile=true" in settings
    ):  # traced as for the real backend, without the code that a compiler would make of it
        torch.compile = functools.partial(torch.compile, backend="aot_eager")
    kills = [setting for setting in settings if setting.startswith("kill_at=")]
    kill_at = int(kills[0].partition("=")[2]) if kills else None
    changes = presets.parse_settings(TINY, [setting for setting in settings if setting not in kills])
    config = dataclasses.replace(TINY, **changes)
    Fragile.at, Fragile.marker = kill_at, f"{out}.killed"
    with distributed.join_ranks("cpu", strategy) as ranks:
        torch.manual_seed(0)
        model = VAR(var_config(label_dropout=0.0, drop_path=0.0, gamma_init=0.1))
        task = Fragile(model, wake(VQVAE(tokenizer_config())), blobs(), validation=heldout(20))
        training.fit(task, config, out, progress=False, ranks=ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
