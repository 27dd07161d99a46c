"""The next-token transformer in LlamaGen's style, plainly, sampled with a concatenating cache or without any.

Sources: LlamaGen (arXiv 2406.06525), sections 2.2 and 2.3; its code's ``gpt.py`` and ``generate.py``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.reference.tokenizer import ReferenceTokenizer
from experiments.bench.reference.weights import Layers, draw, top_k_filter
from minivar.models import GPT


def filter_logits(logits_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Top-k, then the fewest of the best codes whose mass is above top_p."""
    logits_BV = top_k_filter(logits_BV, top_k)
    if top_p < 1:
        descending, order = logits_BV.sort(dim=-1, descending=True)
        drop = descending.softmax(dim=-1).cumsum(dim=-1) > top_p
        drop[..., 1:] = drop[..., :-1].clone()  # the code that crosses top_p stays
        drop[..., 0] = False
        logits_BV = logits_BV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BV


class ReferenceGPT(Layers):
    """The transformer on the weights of ``model``, which is llama-style, conditioned on a class, and has a grid."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model)
        if self.config.style != "llama" or self.config.caption_tokens or self.config.grid is None:
            raise ValueError(f"The reference knows llama-style GPTs of classes with a grid only; got {self.config}.")
        self.rotary_lE2 = self.rotary_table()

    def rotary_table(self) -> Tensor:
        """(1 + N, E / 2, 2): cosine and sine; half of the pairs turn with the row, half with the column.

        The class, which comes first, gets zeros: only its value is read.
        """
        rows, columns = self.config.grid
        half = self.config.width // self.config.heads // 2
        speed = self.config.rope_base ** (-torch.arange(0, half, 2).float() / half)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        angles = torch.cat([row.reshape(-1, 1) * speed, column.reshape(-1, 1) * speed], dim=-1)
        image = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return torch.cat([torch.zeros_like(image[:1]), image]).to(self.weights["token_embed.weight"].device)

    def rotate(self, x_BHlE: Tensor, table_lE2: Tensor) -> Tensor:
        """Turn each pair of neighbouring numbers by its angle."""
        even, odd = x_BHlE.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = table_lE2.unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """RMSNorm."""
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.config.norm_eps)
        return x * scale * self.weights[f"{name}.weight"]

    def block(self, x_BlD: Tensor, i: int, begin: int, cache: dict | None) -> Tensor:
        """Attention and SwiGLU; ``cache`` is read and replaced."""
        name = f"blocks.{i}"
        qkv = self.linear(self.norm(x_BlD, f"{name}.attention_norm"), f"{name}.qkv")
        q_BHlE, k_BHlE, v_BHlE = qkv.unflatten(-1, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        table_lE2 = self.rotary_lE2[begin : begin + x_BlD.shape[1]]
        q_BHlE, k_BHlE = self.rotate(q_BHlE, table_lE2), self.rotate(k_BHlE, table_lE2)
        if cache is not None:
            if i in cache:
                k_BHlE, v_BHlE = (torch.cat(both, dim=2) for both in zip(cache[i], (k_BHlE, v_BHlE)))
            cache[i] = k_BHlE, v_BHlE
        out_BHlE = F.scaled_dot_product_attention(q_BHlE, k_BHlE, v_BHlE, is_causal=q_BHlE.shape[2] > 1)
        x_BlD = x_BlD + self.linear(out_BHlE.transpose(1, 2).flatten(2), f"{name}.proj")
        normed = self.norm(x_BlD, f"{name}.mlp_norm")
        gated = F.silu(self.linear(normed, f"{name}.mlp.w1")) * self.linear(normed, f"{name}.mlp.w3")
        return x_BlD + self.linear(gated, f"{name}.mlp.w2")

    def logits(self, x_BlD: Tensor, begin: int, cache: dict | None) -> Tensor:
        """Embedded tokens from position ``begin`` on -> logits of the token after the last, (B, V)."""
        for i in range(self.config.depth):
            x_BlD = self.block(x_BlD, i, begin, cache)
        return self.linear(self.norm(x_BlD, "norm")[:, -1], "head")

    @torch.no_grad()
    def sample(
        self,
        tokenizer: ReferenceTokenizer,
        labels_B: Tensor,
        cfg: float,
        temperature: float,
        top_k: int,
        top_p: float,
        use_cache: bool,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and tokens (B, N) of the labels; above 1, ``cfg`` guides, and the batch is doubled."""
        guided = cfg > 1
        null_B = torch.full_like(labels_B, self.config.num_classes)
        classes = torch.cat([labels_B, null_B]) if guided else labels_B
        x_BlD, begin, tokens = self.embedding(classes, "class_embed")[:, None], 0, []
        cache = {} if use_cache else None
        for _ in range(len(self.rotary_lE2) - 1):
            logits_BV = self.logits(x_BlD, begin, cache)
            if guided:
                cond_BV, uncond_BV = logits_BV.chunk(2)
                logits_BV = uncond_BV + cfg * (cond_BV - uncond_BV)
            tokens.append(draw(filter_logits(logits_BV / temperature, top_k, top_p), generator))
            new_B1D = self.embedding(tokens[-1].repeat(2 if guided else 1), "token_embed")[:, None]
            if use_cache:
                begin, x_BlD = begin + 1, new_B1D
            else:
                x_BlD = torch.cat([x_BlD, new_B1D], dim=1)
        tokens_BN = torch.stack(tokens, dim=1)
        return (tokenizer.decode([tokens_BN]) + 1) / 2, tokens_BN
