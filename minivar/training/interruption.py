"""Being asked to stop: a cluster says so some minutes before it takes the machine away, with a signal."""

import signal
import threading

import torch

from minivar.distributed import Ranks, least_over_ranks
from minivar.training.config import TrainingError

SIGNALS = (
    signal.SIGTERM,
    signal.SIGUSR1,
)  # what torchrun passes on to its processes, and what SLURM can be told to send
EXIT_CODE = 75  # EX_TEMPFAIL: try again later, which the SLURM script does


class Interrupted(TrainingError):
    """A run that was asked to stop, and has saved its state: the same command goes on from there."""


class Interruption:
    """A context in which ``SIGNALS`` are noted instead of ending the process at once."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.noted, self.before = ranks, False, {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, *_) -> None:
        self.noted = True

    def asked(self) -> bool:
        """Whether any rank has been asked to stop; every rank must ask, since all of them must agree."""
        return not int(least_over_ranks(torch.tensor(int(not self.noted), device=self.ranks.device)))
