"""A training step of the next-scale transformer, plainly: tokens, teacher forcing, cross-entropy, clipping, AdamW.

Sources: the VAR paper (arXiv 2404.02905), section 4; its code's ``trainer.py`` and ``utils/lr_control.py``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.bench.reference.tokenizer import ReferenceTokenizer
from experiments.bench.reference.var import ReferenceVAR

NO_DECAY = ("start_1lD", "position_1LD", "level_embed", "ada_table", "log_scale")  # besides vectors and biases


class ReferenceTraining:
    """Steps that change the weights of ``model``, which it shares with whoever made it, at a constant rate."""

    def __init__(
        self,
        model: ReferenceVAR,
        tokenizer: ReferenceTokenizer,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
    ) -> None:
        self.model, self.tokenizer, self.clip = model, tokenizer, clip
        named = {name: value for name, value in model.weights.items() if isinstance(value, nn.Parameter)}
        plain = {name for name, value in named.items() if value.dim() < 2 or any(key in name for key in NO_DECAY)}
        self.parameters = list(named.values())
        groups = [
            {"params": [named[name] for name in named if name not in plain], "weight_decay": weight_decay},
            {"params": [named[name] for name in named if name in plain], "weight_decay": 0.0},
        ]
        fused = {"fused": True} if self.parameters[0].is_cuda else {}  # as in the published trainer
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, **fused)

    def step_from_pixels(self, images: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (B, 3, H, W) in [-1, 1], then ``step_from_tokens``."""
        return self.step_from_tokens(torch.cat(self.tokenizer.encode(images), dim=1), labels_B)

    def step_from_tokens(self, tokens_BL: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """One step on tokens (B, L) of labels (B,): the loss, and the norm of the gradients before clipping."""
        inputs_BlC = self.tokenizer.teacher_inputs(list(tokens_BL.split(self.model.schedule.counts, dim=1)))
        self.optimizer.zero_grad(set_to_none=True)
        logits_BLV = self.model.forward(labels_B, inputs_BlC, training=True)
        # 1/L sum_l -log p(r_l | ...), every position with the same weight
        loss = F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return loss.detach(), norm.detach()
