"""The next-scale transformer: VAR (arXiv 2404.02905, sections 3.2 and 3.3).

A decoder-only transformer over the flat pyramid of L tokens. Three things set it apart from a language model: the
attention mask is block-causal, so a whole scale is predicted at once; the input of a scale is not the embedding of
its previous token but the image so far, averaged down to that scale's grid; and the class enters through adaptive
layer norm (AdaLN) in every block, besides being the first token. Explained in ``notebooks/05_next_scale.ipynb``.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minivar.checks import check
from minivar.models.block_causal import Mask, attend, training_mask
from minivar.models.layers import MLP, PlainModulation, drop_labels, drop_path, modulate
from minivar.models.products import Linear, linear
from minivar.precision import full_precision
from minivar.scales import VAR_256, ScaleSchedule


@dataclass(frozen=True)
class VARConfig:
    """Shape and regularisation of the transformer. Defaults: the published d16."""

    depth: int = 16
    width: int = 1024  # D
    heads: int = 16  # H
    mlp_ratio: float = 4.0
    num_classes: int = 1000  # class index num_classes is the null class of classifier-free guidance
    codebook_size: int = 4096  # V
    code_dim: int = 32  # C
    schedule: ScaleSchedule = VAR_256
    conditioning: str = "adaln"  # or "prefix": the class is the first token, and the layer norms are plain
    shared_adaln: bool = False  # one AdaLN projection for all blocks, as in d36-s
    l2_norm_attention: bool = True  # cosine attention; all published models use it
    label_dropout: float = 0.1
    drop_path: float = 0.1 * 16 / 24  # of the last block; grows linearly from 0 at the first
    gamma_init: float = 1e-3  # scale of the initial AdaLN gates
    revealed: float = 0.0  # share of training images of whose last scale a part is shown, to draw it in parts later
    mistaken: float = 0.0  # share of tokens that training replaces by random ones, for later scales to correct

    def __post_init__(self) -> None:
        check(
            self,
            depth="[1, 1000]",
            width="[1, 1e6]",
            heads="[1, 1e6]",
            mlp_ratio="(0, 1000]",
            num_classes="[1, 1e8]",
            codebook_size="[1, 1e8]",
            code_dim="[1, 1e6]",
            conditioning=("adaln", "prefix"),
            label_dropout="[0, 1]",
            drop_path="[0, 1)",
            gamma_init="[0, inf)",
            revealed="[0, 1]",
            mistaken="[0, 1)",
        )
        if self.width % self.heads:
            raise ValueError(f"Width must be a multiple of heads; got width {self.width}, heads {self.heads}.")
        if self.shared_adaln and self.conditioning == "prefix":
            raise ValueError("There is no AdaLN to share: got shared_adaln with conditioning prefix, expected adaln.")
        for name, value in (("revealed", self.revealed), ("mistaken", self.mistaken)):
            if value and self.schedule.num_scales < 2:
                raise ValueError(f"A single scale has no inputs that would show it: expected {name} 0, got {value}.")

    @classmethod
    def from_depth(cls, depth: int, **other) -> "VARConfig":
        """The published width rule: D = 64 d, H = d, drop path 0.1 d / 24."""
        rule = {"width": 64 * depth, "heads": depth, "drop_path": 0.1 * depth / 24}
        return cls(depth=depth, **{**rule, **other})

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """The token maps that the model predicts."""
        return self.schedule.grids

    @property
    def prefix(self) -> int:
        """Tokens before those of the pyramid: a caption's, in ``models.text_var``."""
        return 0


class Attention(nn.Module):
    """Multi-head self-attention, by default with L2-normalised queries and keys ("cosine attention")."""

    MAX_LOG_SCALE = math.log(100)

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))  # k has none: in plain attention the softmax cancels it
        self.proj = Linear(width, width)
        self.l2_norm = config.l2_norm_attention
        if self.l2_norm:
            self.log_scale_1H11 = nn.Parameter(torch.full((1, self.heads, 1, 1), math.log(4.0)))
            self.softmax_scale = 1.0
        else:
            self.softmax_scale = 0.25 / math.sqrt(width // self.heads)

    def project(self, x_BlD: Tensor) -> Tensor:
        """Queries, keys and values side by side: (B, l, D) -> (B, l, 3 D)."""
        if self.qkv.bias is not None:  # packed for sampling, with its bias (sampling/packing.py)
            return self.qkv(x_BlD)
        return linear(x_BlD, self.qkv.weight, self.qkv_bias())

    def qkv_bias(self) -> Tensor:
        """(3 D,): none for the keys."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def forward(self, x_BlD: Tensor, mask: Mask, cache=None, record: list | None = None) -> Tensor:
        """``cache.append(k, v)`` must return all keys and values so far; ``record`` collects attention weights, for
        which ``mask`` must be a tensor or None."""
        qkv = self.project(x_BlD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, l, E)
        q_BHlE, k_BHlE, v_BHlE = qkv
        if self.l2_norm:
            # q_hat . k_hat is a cosine in [-1, 1]; exp(min(s, log 100)) is its learned inverse temperature
            q_BHlE, k_BHlE = F.normalize(qkv[:2], dim=-1)
            q_BHlE = q_BHlE * self.log_scale_1H11.clamp_max(self.MAX_LOG_SCALE).exp()
        # autocast normalises in float32: back to 16 bits before the cache, which is what fills the memory
        q_BHlE, k_BHlE = q_BHlE.to(v_BHlE.dtype), k_BHlE.to(v_BHlE.dtype)
        if cache is not None:
            k_BHlE, v_BHlE = cache.append(k_BHlE, v_BHlE)
        if record is not None:
            scores = q_BHlE @ k_BHlE.transpose(-2, -1) * self.softmax_scale
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            record.append(scores.softmax(-1).detach())
        out_BHlE = attend(q_BHlE, k_BHlE, v_BHlE, mask, self.softmax_scale)
        return self.proj(out_BHlE.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm that the class modulates and a gate that the class opens.

    The six modulation vectors (gamma1, gamma2, scale1, scale2, shift1, shift2) are a linear function of SiLU(class
    embedding): the block's own, or, with shared AdaLN, the model's one plus a table of this block. With the class as
    a prefix alone they are the same for all classes, and the gates are open.
    """

    def __init__(self, config: VARConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config.width, round(config.width * config.mlp_ratio))
        self.drop_path_rate = drop_path_rate
        self.shared_adaln = config.shared_adaln
        if config.shared_adaln:
            self.ada_table_116D = nn.Parameter(torch.randn(1, 1, 6, config.width) / config.width**0.5)
        else:
            self.ada = modulation_of(config, gates=2, norms=2)

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """Class embedding (B, D), or shared modulation (B, 1, 6, D) -> six tensors (B, 1, D); plain: (1, 1, D)."""
        if self.shared_adaln:
            return (cond + self.ada_table_116D).unbind(2)
        return self.ada(F.silu(cond)).unflatten(-1, (1, 6, -1)).unbind(2)

    def forward(self, x_BlD: Tensor, cond: Tensor, mask: Mask, cache=None, record=None, six=None) -> Tensor:
        """``six``: the modulation of ``cond``, from a caller who has it already: the sampler, once an image."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.modulation(cond) if six is None else six
        attn = self.attn(modulate(x_BlD, scale1, shift1), mask, cache, record)
        x_BlD = self.residual(x_BlD, attn, gamma1)
        return self.residual(x_BlD, self.mlp(modulate(x_BlD, scale2, shift2)), gamma2)

    def residual(self, x_BlD: Tensor, branch_BlD: Tensor, gamma_B1D: Tensor) -> Tensor:
        """x + gamma * branch, the branch dropped for some samples in training."""
        if self.training and self.drop_path_rate > 0:
            return x_BlD + drop_path(branch_BlD * gamma_B1D, self.drop_path_rate, self.training)
        return torch.addcmul(x_BlD, branch_BlD, gamma_B1D)


def stack(config: VARConfig, kind: type[Block] = Block) -> nn.ModuleList:
    """All blocks of a model; later ones are dropped more often."""
    rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
    return nn.ModuleList(kind(config, rate) for rate in rates)


def blocks_like(config, **shape) -> VARConfig:
    """For another model that has VAR's blocks: what its configuration, and ``shape``, say of them."""
    same = {name: getattr(config, name) for name in ("depth", "width", "heads", "drop_path", "gamma_init")}
    return VARConfig(**{**same, **shape})


def modulation_of(config, gates: int, norms: int) -> nn.Module:
    """Class embedding (B, D) -> its modulation (B, (gates + 2 norms) D); as a prefix, (1, ...) for all classes."""
    if config.conditioning == "prefix":
        return PlainModulation(config.width, gates, norms)
    return Linear(config.width, (gates + 2 * norms) * config.width)


def class_logits(model: nn.Module, x_BlD: Tensor, cond_BD: Tensor) -> Tensor:
    """``head`` behind a layer norm that the class modulates (``head_ada``): (B, l, D) -> (B, l, V), in float32."""
    with full_precision(x_BlD):
        scale_B1D, shift_B1D = model.head_ada(F.silu(cond_BD.float())).unsqueeze(1).chunk(2, dim=-1)
        return model.head(modulate(x_BlD.float(), scale_B1D, shift_B1D))


@torch.no_grad()
def initialise(model: nn.Module, *tables: nn.Parameter) -> None:
    """Published initialisation: truncated normal, std sqrt(1 / (3 D)); small head, AdaLN and residual outputs.

    ``model`` has ``config``, ``blocks``, ``head`` and ``head_ada``; ``tables`` are its parameters outside of layers.
    """
    depth, width = model.config.depth, model.config.width
    std = math.sqrt(1 / (3 * width))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for table in tables:
        nn.init.trunc_normal_(table, std=std)
    model.head.weight.mul_(0.02)
    for block in model.blocks:
        block.attn.proj.weight.div_(math.sqrt(2 * depth))
        block.mlp.fc2.weight.div_(math.sqrt(2 * depth))
    if isinstance(model.head_ada, PlainModulation):  # nothing depends on the class
        return
    model.head_ada.weight.mul_(0.5)
    for block in model.blocks:
        # rows (or table entries) 0 and 1 of six are the gates gamma, 2 to 5 scales and shifts
        ada = block.ada_table_116D[0, 0] if block.shared_adaln else block.ada.weight.view(6, width, width)
        ada[:2].mul_(model.config.gamma_init)
        ada[2:].mul_(0.5)


class VAR(nn.Module):
    """Next-scale prediction: p(r_k | r_1, ..., r_{k-1}, class) for all scales k in one forward pass."""

    kind_of_block = Block

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        width, first = config.width, self.schedule.counts[0]
        self.word_embed = Linear(config.code_dim, width)
        self.make_condition()
        self.start_1lD = nn.Parameter(torch.empty(1, first, width))
        self.position_1LD = nn.Parameter(torch.empty(1, self.schedule.num_tokens, width))
        self.level_embed = nn.Embedding(self.schedule.num_scales, width)
        self.shared_ada = Linear(width, 6 * width) if config.shared_adaln else None
        self.blocks = stack(config, self.kind_of_block)
        self.head_ada = modulation_of(config, gates=0, norms=1)
        self.head = Linear(width, config.codebook_size)
        initialise(self, self.start_1lD, self.position_1LD)
        self.reset_condition()

    # The condition: a class here, a caption in ``models.text_var`` ----------------------------------------------

    def make_condition(self) -> None:
        """A table of classes, and of the null class."""
        self.class_embed = nn.Embedding(self.config.num_classes + 1, self.config.width)

    def reset_condition(self) -> None:
        """What the published initialisation does not know."""

    def null_condition(self, cond: Tensor) -> Tensor:
        """The condition that stands for none, in the shape of ``cond``; for classifier-free guidance."""
        return torch.full_like(cond, self.config.num_classes)

    def drop_conditions(self, cond: Tensor) -> Tensor:
        """In training, a share of the conditions replaced by the null one."""
        return drop_labels(cond, self.config, self.training)

    # The pieces that training and sampling share ---------------------------------------------------------------

    def condition(self, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) -> class embedding (B, D), and what the blocks take for it."""
        cond_BD = self.class_embed(labels_B)
        if self.shared_ada is None:
            return cond_BD, cond_BD
        return cond_BD, self.shared_ada(F.silu(cond_BD)).unflatten(-1, (1, 6, -1))

    def embed(self, k: int, cond_BD: Tensor, inputs_BlC: Tensor | None = None) -> Tensor:
        """Input of scale k, (B, h_k * w_k, D): the class for the first scale, the image so far for the others."""
        begin, end = self.schedule.bounds[k]
        x_BlD = self.start(cond_BD) if k == 0 else self.word_embed(inputs_BlC)
        x_BlD = x_BlD + (self.level_embed.weight[k] + self.position_1LD[:, begin:end])
        return self.led(x_BlD, cond_BD) if k == 0 else x_BlD

    def start(self, cond_BD: Tensor) -> Tensor:
        """Input of the first scale, before positions: the class, (B, l, D)."""
        return cond_BD[:, None] + self.start_1lD

    def led(self, x_BlD: Tensor, cond_BD: Tensor) -> Tensor:
        """Tokens that begin with the first scale's, with what goes before them, if anything does."""
        return x_BlD

    def logits(self, x_BlD: Tensor, cond_BD: Tensor) -> Tensor:
        """Hidden states (B, l, D) -> logits (B, l, V), computed in float32."""
        return class_logits(self, x_BlD, cond_BD)

    def forward(self, labels: Tensor, inputs: Tensor, record: list | None = None) -> Tensor:
        """Teacher-forced pass: labels (B,) int64, inputs (B, L - 1, C) -> logits (B, L, V) float32.

        ``inputs`` come from ``VQVAE.teacher_inputs``. ``record``, a list, receives each block's attention weights,
        (B, H, L, L). Raises ``ValueError`` where shapes do not fit the schedule.
        """
        first, total = self.schedule.counts[0], self.schedule.num_tokens
        expected = (labels.shape[0], total - first, self.config.code_dim)
        if tuple(inputs.shape) != expected:
            raise ValueError(f"Expected teacher inputs of shape {expected}; got {tuple(inputs.shape)}.")
        cond_BD, cond_blocks = self.condition(self.drop_conditions(labels))
        x_BLD = torch.cat([self.start(cond_BD), self.word_embed(inputs)], dim=1)  # ``embed`` of all scales
        x_BLD = x_BLD + (self.level_embed(self.schedule.level_ids(x_BLD.device)) + self.position_1LD)
        x_BLD, prefix = self.led(x_BLD, cond_BD), self.config.prefix
        choose = training_mask if record is None else ScaleSchedule.block_causal_mask
        mask = choose(self.schedule, x_BLD.device, prefix)
        for block in self.blocks:
            x_BLD = block(x_BLD, cond_blocks, mask, None, record)
        return self.logits(x_BLD[:, prefix:], cond_BD)
