"""What the training loop asks of a task: a model, its data, and its loss.

``fit`` knows optimisers, schedules, logging and checkpoints, and nothing of images or tokens; a task knows its model
and what the model learns from, and nothing of the rest. The loop sets ``step``, ``epoch`` and ``run`` beforehand.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from minivar.data import Dataset, Feed

Stats = dict[str, Tensor]  # names of what is logged -> numbers without gradients, scalars or one a scale


class Task(Protocol):
    """Subclass it and define ``name``, ``model``, ``data``, ``loss`` and ``heldout_loss``; the rest has defaults."""

    name: str  # of the run's files and of its phase in the log
    model: nn.Module
    run: nn.Module  # the model as the loop wants it called: itself, compiled, or wrapped for several processes
    data: Dataset
    validation: Dataset | None = None  # held out from training, for the curve that says when to stop
    discriminator: nn.Module | None = None  # learns beside the model, from ``discriminator_loss``
    remembers: nn.Module | None = None  # what else a restart needs beside the model: the discriminator and its like
    unused_parameters: bool = False  # whether some parameters may get no gradient in a step
    settings: dict = {}  # what determines the losses beside the configurations of model and training
    step: int = 0
    epoch: int = 0

    def read_from(self, feed: Feed, heldout_feed: Feed | None) -> None:
        """Read the images of ``data`` and ``validation`` through these from now on, if at all: they read ahead."""

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, Stats]:
        """The loss of the images ``index`` (B,) of ``data``, and what to log of it."""
        ...

    def heldout_loss(self, index: Tensor, device: torch.device) -> Stats:
        """The loss of the images ``index`` (B,) of ``validation``, as "loss", and what else to log; in eval mode."""
        ...

    def discriminator_loss(self, discriminator: nn.Module) -> tuple[Tensor, Stats]:
        """The discriminator's loss on what the last ``loss`` saw; without gradients before its start."""
        ...

    def after_step(self, step: int) -> None:
        """What is to be mended between two steps, if anything."""

    def statistics(self) -> dict[str, list[float]]:
        """What else to log of the last batch."""
        return {}

    def pictures(self, device: torch.device) -> Tensor | None:
        """(rows, columns, channels, height, width) in [0, 1] for a person to look at, always of the same things."""
        return None
