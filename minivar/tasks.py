"""Tasks: a model, its data and its loss, in the form that ``train.fit`` runs.

A task has ``name`` (of its files and its phase in the log), ``model``, ``run`` (the model as the loop wants it
called: itself, compiled, or wrapped for several processes), ``data``, and three methods: ``loss`` of a batch,
``after_step`` and ``evaluate``. The tokenizer learns from pixels; the transformers learn from its tokens,
which are computed once, before training.
Explained in ``notebooks/02_raster.ipynb`` and ``notebooks/06_training.ipynb``.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar import parallel
from minivar.losses import PIXEL_LOSS, LossConfig, TokenizerLoss
from minivar.metrics import codebook_usage
from minivar.raster import GPT
from minivar.tokenizer import VQVAE
from minivar.transformer import VAR


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
                parallel.share(tensor)

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> dict[str, float | list[float]]:
        """Per-scale share of the codebook in use, on the last batch."""
        usage = codebook_usage(self.last.tokens, self.model.config.codebook_size)
        return {"usage": [u["used"] for u in usage], "perplexity": [u["perplexity"] for u in usage]}


class TokenTask:
    """What both transformers share: the tokens of all images, (N, L), encoded by a tokenizer that is frozen for good.

    The tokenizer is moved to ``device``, in eval mode, without gradients.
    """

    def __init__(self, model: VAR | GPT, tokenizer: VQVAE, data, device: torch.device | str = "cpu") -> None:
        self.model = self.run = model
        self.data = data
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        parts = []
        for index in torch.arange(len(data)).split(256):
            parts.append(torch.cat(tokenizer.encode(data.batch(index)[0].to(device)), dim=1).cpu())
        self.tokens_NL, self.labels_N = torch.cat(parts), data.labels

    def after_step(self, step: int) -> None:
        """Nothing to mend."""

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """Nothing beyond the losses."""
        return {}


class VARTask(TokenTask):
    """Next scale: cross-entropy over the pyramid, teacher-forced on the image so far."""

    name = "var"

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over all L positions with equal weights, no label smoothing (REFERENCE section 2, point 4)."""
        tokens_BL, labels_B = self.tokens_NL[index].to(device), self.labels_N[index].to(device)
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
        tokens_BN, labels_B = self.tokens_NL[index].to(device), self.labels_N[index].to(device)
        logits_BNV = self.run(labels_B, tokens_BN[:, :-1])
        losses_BN = F.cross_entropy(logits_BNV.transpose(1, 2), tokens_BN, reduction="none")
        hits_BN = (logits_BNV.argmax(-1) == tokens_BN).float()
        per_row = {
            "row_losses": losses_BN.detach().unflatten(1, self.model.config.grid).mean((0, 2)),
            "row_accuracies": hits_BN.unflatten(1, self.model.config.grid).mean((0, 2)),
        }
        return losses_BN.mean(), {"accuracy": hits_BN.mean(), **per_row}
