"""The next-scale transformer, plainly: teacher-forced with a dense mask, sampled with a concatenating cache.

Sources: the VAR paper (arXiv 2404.02905), sections 3.2 and 3.3; its code's ``models/var.py`` and ``basic_var.py``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.reference.tokenizer import ReferenceTokenizer
from experiments.bench.reference.weights import Layers, draw, top_k_filter
from minivar.models import VAR


def modulated_norm(x_BlD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift."""
    return F.layer_norm(x_BlD, x_BlD.shape[-1:], eps=1e-6).mul(scale_B1D + 1).add_(shift_B1D)


def drop_path(x_BlD: Tensor, rate: float) -> Tensor:
    """Drop the branch of whole samples, rescale the rest (arXiv 1603.09382)."""
    if rate == 0:
        return x_BlD
    keep_B11 = torch.rand(len(x_BlD), 1, 1, device=x_BlD.device) >= rate
    return x_BlD * keep_B11.to(x_BlD.dtype) / (1 - rate)


def filter_logits(logits_BlV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Top-k, then the nucleus of what is left: codes are dropped from the worst on up to a mass of 1 - top_p."""
    logits_BlV = top_k_filter(logits_BlV, top_k)
    if top_p > 0:
        ascending, order = logits_BlV.sort(dim=-1)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        drop[..., -1:] = False
        logits_BlV = logits_BlV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BlV


class ReferenceVAR(Layers):
    """The transformer on the weights of ``model``."""

    def __init__(self, model: VAR) -> None:
        super().__init__(model)
        self.schedule = self.config.schedule
        device = self.weights["position_1LD"].device
        self.level_L = torch.cat([torch.full((n,), k, device=device) for k, n in enumerate(self.schedule.counts)])
        self.mask_LL = self.level_L[:, None] >= self.level_L  # a token sees its own scale and all before
        self.drop_path = torch.linspace(0, self.config.drop_path, self.config.depth, device="cpu").tolist()

    def attention(self, x_BlD: Tensor, name: str, mask_ll: Tensor | None, cache: dict | None) -> Tensor:
        """Cosine attention, or plain attention with the published scale; ``cache`` is read and replaced."""
        q_bias, v_bias = self.weights[f"{name}.q_bias"], self.weights[f"{name}.v_bias"]
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        qkv = F.linear(x_BlD, self.weights[f"{name}.qkv.weight"], bias).unflatten(-1, (3, self.config.heads, -1))
        q_BHlE, k_BHlE, v_BHlE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.config.l2_norm_attention:
            scale = 1.0
            heat_1H11 = self.weights[f"{name}.log_scale_1H11"].clamp_max(math.log(100)).exp()
            q_BHlE, k_BHlE = F.normalize(q_BHlE, dim=-1) * heat_1H11, F.normalize(k_BHlE, dim=-1)
        else:
            scale = 0.25 / math.sqrt(q_BHlE.shape[-1])
        if cache is not None:
            if name in cache:
                k_BHlE, v_BHlE = (torch.cat(both, dim=2) for both in zip(cache[name], (k_BHlE, v_BHlE)))
            cache[name] = k_BHlE, v_BHlE
        out_BHlE = F.scaled_dot_product_attention(q_BHlE, k_BHlE, v_BHlE, attn_mask=mask_ll, scale=scale)
        return self.linear(out_BHlE.transpose(1, 2).flatten(2), f"{name}.proj")

    def block(self, x_BlD: Tensor, i: int, cond_BD: Tensor, mask_ll=None, cache=None, training=False) -> Tensor:
        """Attention and MLP between the six modulations that AdaLN makes of the class."""
        name, rate = f"blocks.{i}", self.drop_path[i] if training else 0.0
        if self.config.shared_adaln:
            shared_B16D = self.linear(F.silu(cond_BD), "shared_ada").unflatten(-1, (1, 6, -1))
            six = (shared_B16D + self.weights[f"{name}.ada_table_116D"]).unbind(2)
        else:
            six = self.linear(F.silu(cond_BD), f"{name}.ada").unflatten(-1, (1, 6, -1)).unbind(2)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six
        attended = self.attention(modulated_norm(x_BlD, scale1, shift1), f"{name}.attn", mask_ll, cache)
        x_BlD = x_BlD + drop_path(attended * gamma1, rate)
        hidden = F.gelu(self.linear(modulated_norm(x_BlD, scale2, shift2), f"{name}.mlp.fc1"), approximate="tanh")
        return x_BlD + drop_path(self.linear(hidden, f"{name}.mlp.fc2") * gamma2, rate)

    def logits(self, x_BlD: Tensor, cond_BD: Tensor) -> Tensor:
        """Modulated norm and the output matrix, (B, l, D) -> (B, l, V)."""
        scale_B1D, shift_B1D = self.linear(F.silu(cond_BD), "head_ada").unflatten(-1, (2, 1, -1)).unbind(1)
        return self.linear(modulated_norm(x_BlD, scale_B1D, shift_B1D), "head")

    def places(self) -> Tensor:
        """Level embedding plus position, (1, L, D)."""
        return self.embedding(self.level_L[None], "level_embed") + self.weights["position_1LD"]

    def forward(self, labels_B: Tensor, inputs_BlC: Tensor, training: bool = False) -> Tensor:
        """Teacher-forced: labels, inputs (B, L - h_1 w_1, C) -> logits (B, L, V)."""
        if training and self.config.label_dropout > 0:
            drop_B = torch.rand(labels_B.shape, device=labels_B.device) < self.config.label_dropout
            labels_B = torch.where(drop_B, self.config.num_classes, labels_B)
        cond_BD = self.embedding(labels_B, "class_embed")
        start_BlD = cond_BD[:, None] + self.weights["start_1lD"]
        x_BLD = torch.cat([start_BlD, self.linear(inputs_BlC, "word_embed")], dim=1) + self.places()
        for i in range(self.config.depth):
            x_BLD = self.block(x_BLD, i, cond_BD, self.mask_LL, training=training)
        return self.logits(x_BLD, cond_BD)

    @torch.no_grad()
    def sample(
        self,
        tokenizer: ReferenceTokenizer,
        labels_B: Tensor,
        cfg: float,
        top_k: int,
        top_p: float,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] and tokens (B, L) of the labels, guided.

        The batch is [conditional; unconditional] at every scale, the strength of the guidance cfg k / (K - 1).
        """
        labels_2B = torch.cat([labels_B, torch.full_like(labels_B, self.config.num_classes)])
        cond_2BD, places_1LD = self.embedding(labels_2B, "class_embed"), self.places()
        x_2BlD = cond_2BD[:, None] + self.weights["start_1lD"]
        f_hat_BChw, tokens, cache, begin = 0.0, [], {}, 0
        for k, count in enumerate(self.schedule.counts):
            x_2BlD = x_2BlD + places_1LD[:, begin : begin + count]
            for i in range(self.config.depth):
                x_2BlD = self.block(x_2BlD, i, cond_2BD, cache=cache)
            strength = cfg * k / max(self.schedule.num_scales - 1, 1)
            cond_BlV, uncond_BlV = self.logits(x_2BlD, cond_2BD).chunk(2)
            logits_BlV = filter_logits((1 + strength) * cond_BlV - strength * uncond_BlV, top_k, top_p)
            tokens.append(draw(logits_BlV.flatten(0, 1), generator).view(-1, count))
            f_hat_BChw = f_hat_BChw + tokenizer.contribution(tokens[k], k)
            begin += count
            if k + 1 < self.schedule.num_scales:
                inputs_BlC = tokenizer.at_scale(f_hat_BChw, k + 1)
                x_2BlD = self.linear(inputs_BlC.repeat(2, 1, 1), "word_embed")
        return (tokenizer.pixels(f_hat_BChw) + 1) / 2, torch.cat(tokens, dim=1)
