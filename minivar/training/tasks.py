"""Tasks: a model, its data and its loss, in the form that ``train.fit`` runs.

A task has ``name`` (of its files and its phase in the log), ``model``, ``run`` (the model as the loop wants it
called: itself, compiled, or wrapped for several processes), ``data``, and four methods: ``loss`` of a batch,
``after_step``, ``evaluate`` and ``pictures``. The tokenizer learns from pixels; the transformers learn from its
tokens, which are read from a cache, or computed once for images in memory, or anew for every batch.
Explained in ``notebooks/02_raster.ipynb`` and ``notebooks/06_training.ipynb``.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar.data import ArraySet
from minivar.distributed import copy_from_rank_zero
from minivar.evaluation.metrics import codebook_usage
from minivar.models import GPT, VAR
from minivar.sampling import generate
from minivar.tokenizer import PIXEL_LOSS, VQVAE, LossConfig, TokenCache, TokenizerLoss, encode

COLUMNS = 10  # pictures side by side in what ``pictures`` returns, for a person to look at


class TokenizerTask:
    """A tokenizer's loss; dead codes are revived every ``revive_every`` steps, 0: never.

    With a discriminator, ``train.fit`` plays both sides: ``opponent_loss`` is the other one's turn.
    """

    name = "tokenizer"

    def __init__(
        self,
        model: VQVAE,
        data,
        loss: LossConfig = PIXEL_LOSS,
        steps: int = 1,
        revive_every: int = 20,
        backbone_weights: Path | None = None,
    ) -> None:
        """``steps`` of the whole run, of which the discriminator's start is a share; weights as in ``Perceptual``."""
        self.model = self.run = model
        self.data = data
        self.revive_every = revive_every
        device = next(model.parameters()).device
        self.objective = TokenizerLoss(loss, model.config.nets.image_channels, steps, backbone_weights).to(device)
        self.opponent = self.objective.discriminator
        self.step = self.epoch = 0  # set by the loop
        self.handful: Tensor | None = None  # what ``pictures`` shows

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and what to log of it."""
        self.images = self.data.batch(index, self.epoch)[0].to(device)
        self.last = out = self.run(self.images)
        quantizer = self.model.quantizer
        vectors = torch.cat(out.residuals) if self.objective.config.entropy else None
        last_layer = self.model.decoder.conv_out.weight
        loss, stats = self.objective(
            self.images, out.reconstruction, out.loss, self.step, last_layer, vectors, quantizer.codes
        )
        return loss, {**stats, "scale_errors": out.scale_errors}

    def opponent_loss(self, judge) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss on the images and reconstructions of the last ``loss``."""
        return self.objective.discriminator_loss(self.images, self.last.reconstruction.detach(), self.step, judge)

    def after_step(self, step: int) -> None:
        """Revive codes that fell out of use; on several ranks, as rank 0 does."""
        if self.revive_every and step % self.revive_every == 0:
            quantizer = self.model.quantizer
            quantizer.revive_dead_codes(self.last.residuals)
            for tensor in (quantizer.codebook, quantizer.usage_KV):
                copy_from_rank_zero(tensor)

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> dict[str, float | list[float]]:
        """Per-scale share of the codebook in use, on the last batch."""
        usage = codebook_usage(self.last.tokens, self.model.config.codebook_size)
        return {"usage": [u["used"] for u in usage], "perplexity": [u["perplexity"] for u in usage]}

    @torch.no_grad()
    def pictures(self, device: torch.device) -> Tensor:
        """Ten training images, always the same, above their reconstructions: (2, 10, channels, H, W) in [0, 1]."""
        if self.handful is None:
            index = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))[:COLUMNS]
            if hasattr(self.data, "order"):  # that is, shards: one of them will do
                index = torch.arange(len(index))
            with torch.random.fork_rng(devices=[]):  # a dataset may draw its crops from the global random state
                self.handful = self.data.batch(index)[0].to(device)
        rows = torch.stack([self.handful, self.model(self.handful).reconstruction])
        return (rows.clamp(-1, 1) + 1) / 2


class TokenTask:
    """What both transformers share: tokens of the images, by a tokenizer that is frozen for good.

    ``data`` is a ``TokenCache`` of this tokenizer, or an ``ArraySet``, whose images are encoded once, here, or any
    other dataset, which is encoded batch by batch: the crops of an image differ from epoch to epoch. The tokenizer is
    moved to ``device``, in eval mode, without gradients. Raises ``CacheError`` for another tokenizer's cache.
    """

    sampling: dict[str, float] = {}  # settings for ``pictures``; those left out are the sampler's defaults

    def __init__(self, model: VAR | GPT, tokenizer: VQVAE, data, device: torch.device | str = "cpu") -> None:
        self.model = self.run = model
        self.data = data
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        self.epoch = 0  # set by the loop
        if isinstance(data, TokenCache):
            data.check(tokenizer, model.config)
        elif isinstance(data, ArraySet):
            parts = [encode(tokenizer, data.batch(index)[0]).cpu() for index in torch.arange(len(data)).split(256)]
            self.tokens_NL, self.labels_N = torch.cat(parts), data.labels

    def tokens(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """int64 indices (B,) -> int64 tokens (B, L) of this epoch's crops, int64 labels (B,)."""
        if isinstance(self.data, TokenCache):
            return self.data.tokens(index, self.epoch)
        if isinstance(self.data, ArraySet):
            return self.tokens_NL[index], self.labels_N[index]
        images, labels = self.data.batch(index, self.epoch)
        return encode(self.tokenizer, images), labels

    def after_step(self, step: int) -> None:
        """Nothing to mend."""

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """Nothing beyond the losses."""
        return {}

    def pictures(self, device: torch.device) -> Tensor:
        """Samples of twenty classes, evenly spread and in rotation: (2, 10, channels, H, W) in [0, 1].

        The generator is their own and has the same seed each time: training's random numbers stay as they are, and
        pictures of different steps differ by what was learned. The weights are the current ones, not their average.
        """
        classes = self.model.config.num_classes
        labels_B = torch.arange(2 * COLUMNS, device=device) * max(1, classes // COLUMNS) % classes
        generator = torch.Generator(device).manual_seed(0)
        drawn = generate(self.model, self.tokenizer, labels_B, generator, **self.sampling)
        return drawn.images.unflatten(0, (2, COLUMNS))


class VARTask(TokenTask):
    """Next scale: cross-entropy over the pyramid, teacher-forced on the image so far."""

    name = "var"

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over all L positions with equal weights, no label smoothing (as in the published trainer)."""
        tokens_BL, labels_B = (x.to(device) for x in self.tokens(index))
        logits_BLV = self.run(labels_B, self.tokenizer.teacher_inputs(self.model.schedule.split(tokens_BL)))
        losses_BL = F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
        hits_BL = (logits_BLV.argmax(-1) == tokens_BL).float()
        per_scale = {
            "scale_losses": torch.stack([x.mean() for x in losses_BL.detach().split(self.model.schedule.counts, 1)]),
            "scale_accuracies": torch.stack([x.mean() for x in hits_BL.split(self.model.schedule.counts, 1)]),
        }  # fmt: skip
        return losses_BL.mean(), {"accuracy": hits_BL.mean(), **per_scale}


class GPTTask(TokenTask):
    """Next token: cross-entropy over the grid in raster order, teacher-forced on the tokens before."""

    name = "gpt"

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """-1/N sum_i log p(x_i | x_1, ..., x_{i-1}, class); the log keeps it by row of the grid as well."""
        tokens_BN, labels_B = (x.to(device) for x in self.tokens(index))
        logits_BNV = self.run(labels_B, tokens_BN[:, :-1])
        losses_BN = F.cross_entropy(logits_BNV.transpose(1, 2), tokens_BN, reduction="none")
        hits_BN = (logits_BNV.argmax(-1) == tokens_BN).float()
        per_row = {
            "row_losses": losses_BN.detach().unflatten(1, self.model.config.grid).mean((0, 2)),
            "row_accuracies": hits_BN.unflatten(1, self.model.config.grid).mean((0, 2)),
        }
        return losses_BN.mean(), {"accuracy": hits_BN.mean(), **per_row}
