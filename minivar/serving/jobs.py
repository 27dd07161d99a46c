"""One picture that somebody asked for, and what a batch does with several of them.

The unit of all batching here is the picture, not the request: the pictures of a request travel by themselves, each
with a seed of its own, so that what is drawn depends neither on how many were asked for nor on who else is served.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from minivar.sampling import RasterSamplingConfig, SamplingConfig


def ignore(job: "Job", event: str, value: object) -> None:
    """The listener of a job that nobody listens to."""


@dataclass(eq=False)
class Job:
    """A class to draw, how, and what there is of the picture so far."""

    label: int
    seed: int
    settings: SamplingConfig | RasterSamplingConfig
    greedy: bool = False  # in raster order alone: the likeliest code in place of a draw
    watched: bool = False  # whether the picture is shown while it is drawn
    # told ("stage", image), ("done", image) or ("failed", exception), by the thread that draws
    listen: Callable[["Job", str, object], None] = ignore
    gone: bool = False  # nobody waits for it any more
    ended: bool = False  # its listener has been told "done" or "failed"
    alone: bool = False  # to be drawn by itself, since a batch that it was in has failed
    stage: int = 0  # scales, or rows of tokens, drawn so far
    tokens: list[int] = field(default_factory=list)  # drawn so far
    features_Chw: Tensor | None = None  # of VAR: the picture so far
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As if nothing had been drawn; the seed sees to it that the same comes again."""
        self.generator, self.tokens, self.stage = torch.Generator().manual_seed(self.seed), [], 0


class Engine(Protocol):
    """A batch of jobs that go on together: ``ContinuousBatch`` and ``PyramidBatch``."""

    slots: int  # jobs that it takes at most
    stages: int  # of a picture: rows of tokens, or scales
    jobs: list[Job]  # that are being drawn

    def admits(self, job: Job) -> bool:
        """Whether ``job`` may join now."""

    def join(self, job: Job) -> None:
        """Take ``job`` in; its first part is drawn by the next step."""

    def step(self) -> list[Job]:
        """Draw the next part of all jobs; returns those that reached a new stage. Finished ones leave."""

    def drop(self, job: Job) -> None:
        """Stop drawing ``job``."""

    def clear(self) -> list[Job]:
        """Forget all jobs, and whatever they left behind; returns them."""

    def images(self, jobs: list[Job]) -> Tensor:
        """The pictures as far as they are drawn: (n, 3, H, W) float32 in [0, 1]."""
