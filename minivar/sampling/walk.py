"""What drawing needs of a transformer from one scale to the next: conditioning, caches, guided logits."""

import torch
from torch import Tensor

from minivar.models.var import VAR
from minivar.sampling.filters import guide
from minivar.sampling.kv_cache import KVCache


class Walk:
    """A VAR on its way through the scales: what it knows of the classes, and the keys and values of what it saw."""

    def __init__(self, model: VAR, labels_B: Tensor, guided: bool, use_cache: bool = True) -> None:
        self.model, self.labels_B, self.guided = model, labels_B, guided
        self.cond_BD, self.cond_blocks = model.condition(
            torch.cat([labels_B, model.null_condition(labels_B)]) if guided else labels_B
        )
        self.sixes = [block.modulation(self.cond_blocks) for block in model.blocks]  # AdaLN: once, not at each scale
        length = model.config.prefix + model.schedule.num_tokens
        self.caches = [KVCache(length) if use_cache else None for _ in model.blocks]

    def end_guidance(self) -> None:
        """Give up the unconditional half of the batch, and what it left in the caches."""
        if self.guided:
            rows, self.guided = len(self.labels_B), False
            self.cond_BD, self.cond_blocks = self.cond_BD[:rows], self.cond_blocks[:rows]
            self.sixes = [tuple(part[:rows] for part in six) for six in self.sixes]
            for cache in self.caches:
                cache.keep_rows(rows)

    def handed_to(self, model: VAR, inputs: list[Tensor]) -> "Walk":
        """Another model at the same place: it reads all earlier scales in one pass, under the block-causal mask."""
        other = Walk(model, self.labels_B, self.guided)
        x_BlD = torch.cat([other.embed(k, given) for k, given in enumerate([None, *inputs])], dim=1)
        end = x_BlD.shape[1]
        other.hidden(x_BlD, model.schedule.block_causal_mask(x_BlD.device, model.config.prefix)[:end, :end])
        return other

    def embed(self, k: int, inputs_BlC: Tensor | None = None) -> Tensor:
        """Input of scale k, for both halves of the batch."""
        if inputs_BlC is not None:
            inputs_BlC = inputs_BlC.repeat(1 + self.guided, 1, 1)
        return self.model.embed(k, self.cond_BD, inputs_BlC)

    def hidden(self, x_BlD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Through all blocks; the caches grow."""
        for block, cache, six in zip(self.model.blocks, self.caches, self.sixes, strict=True):
            x_BlD = block(x_BlD, self.cond_blocks, mask, cache, six=six)
        return x_BlD

    def logits(self, hidden_BlD: Tensor, strength: float) -> Tensor:
        """Hidden states -> guided logits (B, l, V); at strength 0 the unconditional head is not asked."""
        rows = len(hidden_BlD) if strength > 0 else len(self.labels_B)
        logits_BlV = self.model.logits(hidden_BlD[:rows], self.cond_BD[:rows])
        return guide(logits_BlV, strength) if self.guided and strength > 0 else logits_BlV

    def forget_from(self, k: int) -> None:
        """Scale k and what follows it, which are to be computed again."""
        for cache in self.caches:
            cache.filled = self.model.config.prefix + self.model.schedule.bounds[k][0]
