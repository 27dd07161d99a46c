"""Batches of VAR: whole pyramids that begin together.

Why nobody joins in the middle. In raster order every step is one token, whatever the position: a newcomer's first
token and a neighbour's fortieth are rows of one matrix. In next-scale order every step is another size, 1 token, then
4, then 9: pictures at different scales make no rectangle, and padding a scale of one token to one of 256 wastes what
batching saves. Nor is there much to win: a pyramid has ten steps at most where a raster picture has hundreds, and who
just missed a batch waits for ten steps at worst. So VAR is served by the older recipe: whoever comes within a few
milliseconds, or while the last batch is drawn, makes up the next.
"""

import torch
from torch import Tensor

from minivar.models import VAR
from minivar.sampling import sample_scales
from minivar.serving.jobs import Job
from minivar.tokenizer import VQVAE


class PyramidBatch:
    """``slots`` pictures at most, drawn scale by scale; what each gets is that of ``sample`` with its generator.

    They have the same settings, since guidance and filters act on the table of a whole scale.
    """

    def __init__(self, model: VAR, tokenizer: VQVAE, slots: int = 8) -> None:
        if slots < 1:
            raise ValueError(f"A batch needs at least 1 slot; got {slots}.")
        self.model, self.tokenizer, self.slots = model, tokenizer, slots
        self.stages = model.schedule.num_scales
        self.jobs: list[Job] = []
        self.clear()

    def clear(self) -> list[Job]:
        """Forget all jobs, and the pyramid that they were in."""
        left, self.jobs, self.scales = self.jobs, [], None
        return left

    def admits(self, job: Job) -> bool:
        """Whether ``job`` may begin with those that wait for the first step."""
        alike = not self.jobs or self.jobs[0].settings == job.settings
        return self.scales is None and len(self.jobs) < self.slots and alike

    def join(self, job: Job) -> None:
        """Take ``job`` into the pyramid that begins with the next step."""
        self.jobs.append(job)

    def drop(self, job: Job) -> None:
        """Forget ``job``, which is ``gone``; a pyramid that has begun is drawn for the others, if there are any."""
        if self.scales is None:
            self.jobs.remove(job)
        elif all(other.gone for other in self.jobs):
            self.clear()

    def step(self) -> list[Job]:
        """The next scale of all pictures; returns them all. After the last scale they leave."""
        if self.scales is None:
            labels = torch.tensor([job.label for job in self.jobs], device=self.model.class_embed.weight.device)
            settings, generators = self.jobs[0].settings, [job.generator for job in self.jobs]
            self.scales = sample_scales(
                self.model,
                self.tokenizer.quantizer,
                labels,
                settings.cfg,
                settings.top_k,
                settings.top_p,
                generator=generators,
            )
        state = next(self.scales)
        for job, tokens_l, features_Chw in zip(self.jobs, state.tokens_Bl, state.f_hat_BChw, strict=True):
            job.tokens += tokens_l.tolist()
            job.features_Chw, job.stage = features_Chw, state.k + 1
        return self.clear() if state.k + 1 == self.stages else list(self.jobs)

    @torch.no_grad()
    def images(self, jobs: list[Job]) -> Tensor:
        """The pictures as far as they are drawn: (n, 3, H, W) in [0, 1]."""
        features_BChw = torch.stack([job.features_Chw for job in jobs])
        return (self.tokenizer.decode_features(features_BChw).clamp(-1, 1) + 1) / 2
