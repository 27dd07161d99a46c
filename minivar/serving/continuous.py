"""Continuous batching in miniature: pictures that join a batch, and leave it, between two tokens.

One step of a transformer costs nearly the same for one row as for eight: it reads all weights once either way. So a
server wants full batches, and requests come when they like. *Static* batching collects some, draws them all, and lets
whoever comes meanwhile wait for the last token. *Continuous* batching (Orca, OSDI 2022; vLLM, arXiv 2309.06180) asks
before every token who is new and who is done. All it takes is a batch whose rows are at different positions:

- each row has keys and values of its own, and a position at which the next ones are written (``RowCache``);
- each row sees the positions up to its own, which is a mask, and is rotated by its own angles;
- each picture has its own settings and its own generator, so that nobody sees who else was served.

Two things are simpler here than for text. The prompt, a class, is one token long: a newcomer's first step is a step
like any other, and nothing is "prefilled". And all pictures have the same number of tokens: memory for a slot can be
laid out beforehand, where vLLM hands it out in pages. Measured by ``experiments/serving.py``.
"""

import math

import torch
from torch import Tensor

from minivar.models import GPT
from minivar.sampling import draw_tokens, filter_descending
from minivar.serving.jobs import Job
from minivar.tokenizer import VQVAE

BLANK = 0.5  # the grey of what is not drawn yet


class RowCache:
    """Keys and values of one attention layer, (B, H, L, E), of rows that are at different positions."""

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        self.k_BHLE = self.v_BHLE = self.at_B = None

    def append(self, k_BH1E: Tensor, v_BH1E: Tensor) -> tuple[Tensor, Tensor]:
        """Write one key and value a row at ``at_B``; returns all up to the longest row, for a mask to choose from."""
        rows, heads, _, width = k_BH1E.shape
        if self.k_BHLE is None:  # zeros: a mask multiplies by 0, and 0 times what memory holds may be nan
            self.k_BHLE, self.v_BHLE = (k_BH1E.new_zeros(self.rows, heads, self.length, width) for _ in "kv")
        each = torch.arange(rows, device=k_BH1E.device)
        self.k_BHLE[each, :, self.at_B], self.v_BHLE[each, :, self.at_B] = k_BH1E[:, :, 0], v_BH1E[:, :, 0]
        longest = int(self.at_B.max()) + 1
        return self.k_BHLE[:rows, :, :longest], self.v_BHLE[:rows, :, :longest]

    def keep(self, kept_B: Tensor) -> None:
        """Close the gaps between the rows that stay; those in front of the first gap do not move."""
        moved = kept_B[kept_B != torch.arange(len(kept_B), device=kept_B.device)]
        first = len(kept_B) - len(moved)
        if len(moved) and self.k_BHLE is not None:
            for each in (self.k_BHLE, self.v_BHLE):
                each[first : len(kept_B)] = each[moved]


class ContinuousBatch:
    """``slots`` pictures at most, drawn token by token in raster order; what each gets is ``sample_raster``'s.

    A guided picture has two rows in the batch, with the class and without, another has one. ``static`` lets pictures
    join only when all others have left: static batching, to compare with. Raises ``ValueError`` for models that it
    cannot draw with.
    """

    def __init__(self, gpt: GPT, tokenizer: VQVAE | None, slots: int = 8, static: bool = False) -> None:
        if gpt.config.caption_tokens:
            raise ValueError(
                f"Continuous batching expects a prompt of one token, a class; got {gpt.config.caption_tokens} tokens."
            )
        if slots < 1:
            raise ValueError(f"A batch needs at least 1 slot; got {slots}.")
        self.gpt, self.tokenizer, self.slots, self.static = gpt, tokenizer, slots, static
        self.grid = gpt.config.grid or (tokenizer and tokenizer.config.latent_grid) or (16, 16)
        self.stages = self.grid[0]
        self.clear()

    def clear(self) -> list[Job]:
        """Forget all jobs, with their keys and values, which a failure may have left unfit for others' eyes."""
        left, device = getattr(self, "jobs", []), self.gpt.token_embed.weight.device
        self.jobs: list[Job] = []
        self.caches = [RowCache(2 * self.slots, 1 + math.prod(self.grid)) for _ in self.gpt.blocks]
        # for each row: whose it is, its condition, its position, and the embedded token that comes there
        self.owner_B, self.cond_B, self.at_B = (torch.zeros(0, dtype=torch.int64, device=device) for _ in range(3))
        self.x_BD = self.gpt.token_embed.weight.new_zeros(0, self.gpt.config.width)
        return left

    def admits(self, job: Job) -> bool:
        """Whether a slot is free; with ``static``, in a batch that has not begun."""
        return len(self.jobs) < self.slots and not (self.static and any(job.tokens for job in self.jobs))

    @torch.no_grad()
    def join(self, job: Job) -> None:
        """Add the rows of a picture, at position 0, where its class is the token."""
        cond = self.cond_B.new_tensor([job.label])
        if job.settings.cfg > 1:
            cond = torch.cat([cond, self.gpt.null_condition(cond)])
        self.x_BD = torch.cat([self.x_BD, self.gpt.prefix(cond)[:, 0]])
        self.cond_B, self.at_B = torch.cat([self.cond_B, cond]), torch.cat([self.at_B, torch.zeros_like(cond)])
        self.owner_B = torch.cat([self.owner_B, torch.full_like(cond, len(self.jobs))])
        self.jobs.append(job)
        self._arrange()

    def drop(self, job: Job) -> None:
        """Take the rows of a picture out."""
        self._leave([job])

    def _leave(self, leaving: list[Job]) -> None:
        stays = torch.tensor([job not in leaving for job in self.jobs], device=self.owner_B.device)
        kept_B = stays[self.owner_B].nonzero()[:, 0]
        for cache in self.caches:
            cache.keep(kept_B)
        self.x_BD, self.cond_B, self.at_B = self.x_BD[kept_B], self.cond_B[kept_B], self.at_B[kept_B]
        self.owner_B = (stays.cumsum(0) - 1)[self.owner_B[kept_B]]  # those behind the leavers move up
        self.jobs = [job for job in self.jobs if job not in leaving]
        if self.jobs:
            self._arrange()

    @torch.no_grad()
    def _arrange(self) -> None:
        """What stays the same from step to step as long as nobody joins or leaves."""
        self.context = self.gpt.context(self.cond_B, self.grid, ahead=True)
        first_B = torch.ones_like(self.owner_B, dtype=torch.bool)
        first_B[1:] = self.owner_B[1:] != self.owner_B[:-1]
        self.with_J = first_B.nonzero()[:, 0]  # of each picture the row with its class ...
        self.without_J = first_B.roll(-1).nonzero()[:, 0]  # ... and its last, which without guidance is the same
        column = self.x_BD.new_tensor([[job.settings.cfg, job.settings.temperature] for job in self.jobs])
        self.cfg_J1, self.temperature_J1 = column.float().split(1, dim=1)

    @torch.no_grad()
    def step(self) -> list[Job]:
        """One token for every picture; returns those that completed a row of the grid. Finished ones leave."""
        for cache in self.caches:
            cache.at_B = self.at_B
        mask = None
        if bool((self.at_B != self.at_B[0]).any()):
            mask = torch.arange(int(self.at_B.max()) + 1, device=self.at_B.device) <= self.at_B[:, None]
            mask = mask[:, None, None]  # (B, heads, queries, longest)
        hidden_B1D = self.gpt.hidden(self.x_BD[:, None], self.at_B, self.grid, self.caches, self.context, mask)
        logits_BV = self.gpt.logits(hidden_B1D, self.context)[:, 0]
        with_JV, without_JV = logits_BV[self.with_J], logits_BV[self.without_J]
        # l = l_without + cfg (l_with - l_without), as in ``sample_raster``
        logits_JV = (without_JV + self.cfg_J1 * (with_JV - without_JV)) / self.temperature_J1
        tokens_J = self._draw(logits_JV)
        self.x_BD = self.gpt.token_embed(tokens_J)[self.owner_B]
        self.at_B = self.at_B + 1
        return self._note(tokens_J.tolist())

    def _draw(self, logits_JV: Tensor) -> Tensor:
        """A token for each picture by its own filters and generator; those with the same filters share a sort."""
        filters = [(job.settings.top_k, job.settings.top_p) for job in self.jobs]
        for top_k, top_p in set(filters):
            same = [i for i, own in enumerate(filters) if own == (top_k, top_p)]
            logits_JV[same] = filter_descending(logits_JV[same], top_k, top_p)
        drawn_J = draw_tokens(logits_JV[:, None], [job.generator for job in self.jobs])[:, 0]
        greedy_J = torch.tensor([job.greedy for job in self.jobs], device=logits_JV.device)
        return torch.where(greedy_J, logits_JV.argmax(-1), drawn_J)

    def _note(self, tokens: list[int]) -> list[Job]:
        """Write down what was drawn, and let go whoever has all tokens."""
        for job, token in zip(self.jobs, tokens, strict=True):
            job.tokens.append(token)
        moved = [job for job in self.jobs if len(job.tokens) % self.grid[1] == 0]
        for job in moved:
            job.stage += 1
        if finished := [job for job in moved if job.stage == self.stages]:
            self._leave(finished)
        return moved

    @torch.no_grad()
    def images(self, jobs: list[Job]) -> Tensor:
        """The pictures as far as they are drawn, (n, 3, H, W) in [0, 1]; rows without tokens are grey."""
        quantizer, (rows, columns), device = self.tokenizer.quantizer, self.grid, self.x_BD.device
        features_BCN = quantizer.codebook.new_zeros(len(jobs), self.tokenizer.config.code_dim, rows * columns)
        for features_CN, job in zip(features_BCN, jobs, strict=True):
            features_CN[:, : len(job.tokens)] = quantizer.lookup(torch.tensor([job.tokens], device=device))[0].T
        images = (self.tokenizer.decode_features(features_BCN.unflatten(-1, self.grid)).clamp(-1, 1) + 1) / 2
        for image, job in zip(images, jobs, strict=True):
            image[:, round(image.shape[1] * job.stage / rows) :] = BLANK
        return images
