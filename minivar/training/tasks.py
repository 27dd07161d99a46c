"""The three tasks: a tokenizer learns from pixels, VAR and GPT learn from the tokens of a tokenizer.

Explained in ``notebooks/02_raster.ipynb`` and ``notebooks/06_training.ipynb``.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.data import ArraySet, Dataset, Feed, ImageSet
from minivar.distributed import copy_from_rank_zero
from minivar.evaluation.metrics import codebook_usage
from minivar.models import Generator, TextEncoder
from minivar.precision import convolution_order, full_precision
from minivar.sampling import generate, images_at_once
from minivar.tokenizer import PIXEL_LOSS, VQVAE, CacheError, LossConfig, Pixels, TokenCache, TokenizerLoss, encode
from minivar.training.task import Stats, Task

COLUMNS = 10  # pictures side by side in what ``pictures`` returns, for a person to look at


class TokenizerTask(Task):
    """A tokenizer's loss; dead codes are revived every ``revive_every`` steps, 0: never.

    ``revive_below``: a code is dead whose share of the uses is below this share of the average, all scales counted
    alike; None: below a twentieth, all uses counted alike.
    """

    name = "tokenizer"
    unused_parameters = True  # a short schedule may leave one of the phi convolutions without work

    def __init__(
        self,
        model: VQVAE,
        data: ImageSet,
        loss: LossConfig = PIXEL_LOSS,
        steps: int = 1,
        revive_every: int = 20,
        backbone_weights: Path | None = None,
        validation: ImageSet | None = None,
        revive_below: float | None = None,
    ) -> None:
        """``steps`` of the whole run, of which the discriminator's start is a share; weights as in ``Perceptual``."""
        self.model = self.run = model
        self.data, self.validation = self.source, self.heldout_source = data, validation
        self.revive_every = revive_every
        self.revive = {} if revive_below is None else {"threshold": revive_below, "scales_alike": True}
        device = next(model.parameters()).device
        objective = TokenizerLoss(loss, model.config.nets.image_channels, steps, backbone_weights)
        self.objective = objective.to(device, memory_format=convolution_order(device))
        self.discriminator = self.objective.discriminator
        self.remembers = self.objective if self.discriminator is not None else None
        self.settings = {**asdict(loss), **self.revive}
        self.handful: Tensor | None = None  # what ``pictures`` shows

    def read_from(self, feed: Feed, heldout_feed: Feed | None) -> None:
        """Images to learn from and held-out ones."""
        self.source, self.heldout_source = feed, heldout_feed

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, Stats]:
        """Reconstruction, perception, quantiser and the discriminator's opinion, as ``LossConfig`` weighs them."""
        self.images = self.source.batch(index, self.epoch)[0].to(device)
        self.last = out = self.run(self.images)
        quantizer = self.model.quantizer
        vectors = torch.cat(out.residuals) if self.objective.config.entropy else None
        last_layer = self.model.decoder.conv_out.weight
        loss, stats = self.objective(
            self.images, out.reconstruction, out.loss, self.step, last_layer, vectors, quantizer.codes
        )
        return loss, {**stats, "scale_errors": out.scale_errors}

    def heldout_loss(self, index: Tensor, device: torch.device) -> Stats:
        """Reconstruction and quantiser's loss: what does not depend on a discriminator that learns as well."""
        images = self.heldout_source.batch(index)[0].to(device)
        out = self.model(images)
        loss, stats = self.objective.reconstruction_loss(images, out.reconstruction.float())
        return {**stats, "loss": loss + out.loss, "scale_errors": out.scale_errors}

    def discriminator_loss(self, discriminator: nn.Module) -> tuple[Tensor, Stats]:
        """On the images and reconstructions of the last ``loss``."""
        fake = self.last.reconstruction.detach()
        return self.objective.discriminator_loss(self.images, fake, self.step, discriminator)

    def after_step(self, step: int) -> None:
        """Revive codes that fell out of use; on several ranks, as rank 0 does."""
        if self.revive_every and step % self.revive_every == 0:
            quantizer = self.model.quantizer
            quantizer.revive_dead_codes(self.last.residuals, **self.revive)
            for tensor in (quantizer.codebook, quantizer.usage_KV):
                copy_from_rank_zero(tensor)

    @torch.no_grad()
    def statistics(self) -> dict[str, list[float]]:
        """Per-scale share of the codebook in use, on the last batch."""
        usage = codebook_usage(self.last.tokens, self.model.config.codebook_size)
        return {"usage": [u["used"] for u in usage], "perplexity": [u["perplexity"] for u in usage]}

    @torch.no_grad()
    def pictures(self, device: torch.device) -> Tensor:
        """Ten training images, always the same, above their reconstructions: (2, 10, channels, H, W) in [0, 1]."""
        if self.handful is None:
            # the first ones in the order in which images are best read: of shards, from a single one
            index = self.data.order(len(self.data), generator=torch.Generator().manual_seed(0))[:COLUMNS]
            with torch.random.fork_rng(devices=[]):  # a dataset may draw its crops from the global random state
                self.handful = self.data.batch(index)[0].to(device)
        rows = torch.stack([self.handful, self.model(self.handful).reconstruction.float()])
        return (rows.clamp(-1, 1) + 1) / 2


class Encoded:
    """What a tokenizer that is frozen for good makes of a dataset: tokens, or latents.

    ``data`` is an ``ArraySet``, whose images are encoded once, here, by ``function``, or any other dataset, which is
    encoded batch by batch, since the crops of an image differ from epoch to epoch; or a ``TokenCache``, which holds
    the tokens. Images come from ``source``: the dataset itself, or the feed that reads it ahead.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], data: Dataset) -> None:
        self.function, self.data = function, data
        self.source: Dataset | Feed = data
        if isinstance(data, ArraySet):
            parts = [function(data.batch(index)[0]).cpu() for index in torch.arange(len(data)).split(256)]
            self.encoded_N, self.labels_N = torch.cat(parts), data.labels

    def batch(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """int64 indices (B,) -> tokens (B, L) or latents (B, C, h, w) of this epoch's crops, int64 labels (B,)."""
        if isinstance(self.data, TokenCache):
            return self.data.tokens(index, epoch)
        if isinstance(self.data, ArraySet):
            return self.encoded_N[index], self.labels_N[index]
        images, labels = self.source.batch(index, epoch)
        return self.function(images), labels


class GeneratorTask(Task):
    """What all that draw images share: images as a tokenizer encodes them, and pictures of what the model draws.

    The tokenizer is moved to ``device``, in eval mode, without gradients; so is ``text``, the encoder of a model that
    draws from captions. Raises ``CacheError`` for another tokenizer's cache.
    """

    sampling: dict[str, float] = {}  # settings for ``pictures``; those left out are the sampler's defaults

    def __init__(
        self,
        model: Generator,
        tokenizer: VQVAE | Pixels,
        data: Dataset,
        device: torch.device | str = "cpu",
        validation: Dataset | None = None,
        text: TextEncoder | None = None,
    ) -> None:
        self.model = self.run = model
        self.data, self.validation = data, validation
        self.text = None if text is None else text.to(device).eval().requires_grad_(False)
        # the caption that stands for none learns only where some are replaced by it
        self.unused_parameters = text is not None and model.config.label_dropout == 0
        self.tokenizer = tokenizer.to(device, memory_format=convolution_order(device)).eval().requires_grad_(False)
        for source in (data, validation):
            if isinstance(source, TokenCache):
                self.accept(source)
        self.encoded = Encoded(self.encode, data)
        self.heldout_encoded = None if validation is None else Encoded(self.encode, validation)

    def accept(self, cache: TokenCache) -> None:
        """Raise ``CacheError`` for the tokens of another tokenizer."""
        cache.check(self.tokenizer, self.model.config)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W) -> tokens (B, L)."""
        return encode(self.tokenizer, images)

    def told(self, data: Dataset, index: Tensor, epoch: int, labels_B: Tensor, device: torch.device) -> Tensor:
        """What the model is told of the images ``index``: their labels, or the features of their captions."""
        if self.text is None:
            return labels_B.to(device)
        with torch.no_grad(), full_precision(self.text.position_1TD):
            return self.text(self.text.config.vocabulary.ids(data.captions(index, epoch)).to(device))

    def read_from(self, feed: Feed, heldout_feed: Feed | None) -> None:
        """Images to be encoded, where that is not done already."""
        self.encoded.source = feed
        if heldout_feed is not None:
            self.heldout_encoded.source = heldout_feed

    def pictures(self, device: torch.device) -> Tensor:
        """Samples of twenty classes, evenly spread and in rotation: (2, 10, channels, H, W) in [0, 1].

        Or of the full captions of twenty held-out images, the first ones.

        The generator is their own and has the same seed each time: training's random numbers stay as they are, and
        pictures of different steps differ by what was learned. The weights are the current ones, not their average.
        """
        if self.text is None:
            classes = self.model.config.num_classes
            wanted_B = torch.arange(2 * COLUMNS, device=device) * max(1, classes // COLUMNS) % classes
        else:
            shown = self.data if self.validation is None else self.validation
            wanted_B = self.text.read(shown.full_captions(torch.arange(2 * COLUMNS) % len(shown)))
        generator = torch.Generator(device).manual_seed(0)
        at_once = images_at_once(self.model.config, most=2 * COLUMNS)
        drawn = [
            generate(self.model, self.tokenizer, part, generator, **self.sampling).images
            for part in wanted_B.split(at_once)
        ]
        return torch.cat(drawn).float().unflatten(0, (2, COLUMNS))


class TokenTask(GeneratorTask):
    """What VAR and GPT share: every token of an image is predicted, from those before it."""

    def predict(self, model: nn.Module, tokens_BL: Tensor, cond_B: Tensor) -> tuple[Tensor, Stats]:
        """Cross-entropy of every token (B, L) given what comes before it, and losses and accuracies by part."""
        ...

    def loss(self, index: Tensor, device: torch.device) -> tuple[Tensor, Stats]:
        """Mean over all positions with equal weights, no label smoothing (as in both published trainers)."""
        tokens_BL, labels_B = self.encoded.batch(index, self.epoch)
        cond_B = self.told(self.data, index, self.epoch, labels_B, device)
        losses_BL, stats = self.predict(self.run, tokens_BL.to(device), cond_B)
        return losses_BL.mean(), stats

    def heldout_loss(self, index: Tensor, device: torch.device) -> Stats:
        """The same of held-out images, without dropout of any kind."""
        tokens_BL, labels_B = self.heldout_encoded.batch(index, 0)
        cond_B = self.told(self.validation, index, 0, labels_B, device)
        losses_BL, stats = self.predict(self.model, tokens_BL.to(device), cond_B)
        return {"loss": losses_BL.mean(), **stats}


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """-log p of every token, (B, L). Flattened: softmax over a dimension but the last leaps through memory."""
    return F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten(), reduction="none").view_as(tokens_BL)


class VARTask(TokenTask):
    """Next scale: cross-entropy over the pyramid, teacher-forced on the image so far; logged by scale."""

    name = "var"

    def accept(self, cache: TokenCache) -> None:
        """Raise ``CacheError`` for another tokenizer's tokens, and where mistakes are to be made of images."""
        super().accept(cache)
        if self.model.config.mistaken:
            raise CacheError(
                f"With model.mistaken {self.model.config.mistaken} every epoch encodes anew: expected images, got "
                "the tokens of a cache."
            )

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W) -> tokens (B, L); their features (B, C, h, w) where mistakes are to be made."""
        return self.tokenizer.features(images) if self.model.config.mistaken else super().encode(images)

    def predict(self, model: nn.Module, encoded: Tensor, cond_B: Tensor) -> tuple[Tensor, Stats]:
        """-log p(r_k | r_1, ..., r_{k-1}, class or caption), token by token; from tokens (B, L) or features."""
        schedule = self.model.schedule
        if encoded.dim() == 4:
            share = self.model.config.mistaken if model.training else 0.0
            tokens, inputs_BLC = self.tokenizer.quantizer.encode_with_mistakes(encoded, share)
            tokens_BL = torch.cat(tokens, dim=1)
        else:
            tokens_BL, inputs_BLC = encoded, self.tokenizer.teacher_inputs(schedule.split(encoded))
        weights_BL = torch.ones((), device=tokens_BL.device)
        if model.training and self.model.config.revealed:
            inputs_BLC, weights_BL = self.reveal(inputs_BLC, tokens_BL)
        logits_BLV = model(cond_B, inputs_BLC)
        losses_BL = token_losses(logits_BLV, tokens_BL) * weights_BL
        hits_BL = (logits_BLV.argmax(-1) == tokens_BL) * weights_BL
        return losses_BL, {
            "accuracy": hits_BL.mean(),
            "scale_losses": torch.stack([x.mean() for x in losses_BL.detach().split(schedule.counts, 1)]),
            "scale_accuracies": torch.stack([x.mean() for x in hits_BL.split(schedule.counts, 1)]),
        }

    def reveal(self, inputs_BLC: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Add random codes of the last scale to its inputs, so that the model learns to draw it in parts.

        Of the share ``revealed`` of the images; any share of the positions is as likely as any other. Those that are
        shown are not predicted: weights (B, L) with which losses count, of mean 1 over the scale.
        """
        quantizer, last = self.tokenizer.quantizer, self.model.schedule.counts[-1]

        def random(*shape: int) -> Tensor:
            return torch.rand(shape, device=tokens_BL.device)

        count = len(tokens_BL)
        known_Bl = (random(count, last) < random(count, 1)) & (random(count, 1) < self.model.config.revealed)
        added_BlC = quantizer.last_scale_so_far(tokens_BL[:, -last:], known_Bl)
        inputs_BLC = torch.cat([inputs_BLC[:, :-last], inputs_BLC[:, -last:] + added_BlC], dim=1)
        weights_BL = torch.ones_like(tokens_BL, dtype=inputs_BLC.dtype)
        unknown_Bl = (~known_Bl).to(inputs_BLC.dtype)
        weights_BL[:, -last:] = unknown_Bl / unknown_Bl.mean().clamp_min(1 / unknown_Bl.numel())
        return inputs_BLC, weights_BL


class TextVARTask(VARTask):
    """Next scale from captions."""

    name = "textvar"


class GPTTask(TokenTask):
    """Next token: cross-entropy over the grid in raster order, teacher-forced on the tokens before; logged by row."""

    name = "gpt"

    def predict(self, model: nn.Module, tokens_BL: Tensor, cond_B: Tensor) -> tuple[Tensor, Stats]:
        """-log p(x_i | x_1, ..., x_{i-1}, class or caption), token by token."""
        grid = self.model.config.grid
        logits_BLV = model(cond_B, tokens_BL[:, :-1])
        losses_BL = token_losses(logits_BLV, tokens_BL)
        hits_BL = (logits_BLV.argmax(-1) == tokens_BL).float()
        return losses_BL, {
            "accuracy": hits_BL.mean(),
            "row_losses": losses_BL.detach().unflatten(1, grid).mean((0, 2)),
            "row_accuracies": hits_BL.unflatten(1, grid).mean((0, 2)),
        }
