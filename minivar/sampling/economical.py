"""Drawing with less arithmetic: what can be left out of the loop over scales, as options of one table.

The last scale costs most, having most tokens, and decides least. So: guide only the first scales, and run half the
batch from there on; end the pyramid early; compute the last scale only where the picture still changes, an idea of
FastVAR (arXiv 2503.23367); let a small model finish what the large one began (CoDe, arXiv 2411.17787). One option
spends in place of saving: drawing the last scale in parts, each of which sees those before (masked prediction within
a scale, as in HMAR, arXiv 2506.04421). What each is worth is measured in ``notebooks/07a_speed.ipynb``.

With nothing left out the tokens are those of ``sample``, which a test holds this loop to.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minivar.checks import check
from minivar.models.var import VAR
from minivar.sampling.drawing import Sample, draw_tokens
from minivar.sampling.filters import filter_logits
from minivar.sampling.next_scale import check_sampling
from minivar.sampling.walk import Walk
from minivar.scales import ScaleSchedule
from minivar.tokenizer.vqvae import VQVAE


@dataclass(frozen=True)
class Economy:
    """What is left out; by default nothing."""

    guided_scales: int | None = None  # guide the first so many scales; the others cost half
    scales: int | None = None  # draw the first so many
    kept_tokens: float = 1.0  # share of the last scale's positions that are computed; the others add next to nothing
    refined_from: int | None = None  # scales that the large model draws before a small one goes on
    sub_steps: int = 1  # parts in which the last scale is drawn

    def __post_init__(self) -> None:
        check(
            self,
            guided_scales="[0, 1000]",
            scales="[1, 1000]",
            kept_tokens="(0, 1]",
            refined_from="[1, 1000]",
            sub_steps="[1, 1000]",
        )
        if self.sub_steps > 1 and self.kept_tokens < 1:
            raise ValueError(
                "The last scale is either drawn in parts or in part; got sub_steps "
                f"{self.sub_steps} and kept_tokens {self.kept_tokens}."
            )

    def check_for(self, model: VAR, refiner: VAR | None) -> None:
        """Raise ``ValueError`` for scales that the model has not, or a small model that does not belong to it."""
        scales, last = model.schedule.num_scales, model.schedule.counts[-1]
        for name in ("guided_scales", "scales", "refined_from"):
            if (getattr(self, name) or 0) > scales:
                raise ValueError(f"{name} must be at most the model's {scales} scales; got {getattr(self, name)}.")
        if self.sub_steps > last:
            raise ValueError(f"The last scale has {last} tokens, too few for {self.sub_steps} parts.")
        if (self.refined_from is None) != (refiner is None):
            raise ValueError(
                "refined_from and a model that refines belong together; got refined_from "
                f"{self.refined_from} and {'no model' if refiner is None else 'a model'}."
            )
        if refiner is not None and signature(refiner) != signature(model):
            raise ValueError(
                "The model that refines must have the classes, codes and schedule of the other; got "
                f"{signature(refiner)}, expected {signature(model)}."
            )


def signature(model: VAR) -> tuple[int, int, int, ScaleSchedule]:
    """What two models must share to draw one image together."""
    return model.config.num_classes, model.config.codebook_size, model.config.code_dim, model.schedule


@torch.no_grad()
def sample_economically(
    model: VAR,
    tokenizer: VQVAE,
    labels: Tensor,
    economy: Economy = Economy(),
    refiner: VAR | None = None,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Sample:
    """``sample``, but for what ``economy`` leaves out; labels (B,) -> images (B, 3, H, W) in [0, 1], tokens (B, L).

    ``refiner`` draws the scales after ``economy.refined_from``. Of a pyramid that ends early there are fewer tokens.
    Raises ``ValueError`` for impossible parameters.
    """
    check_sampling(model, labels, cfg, top_k, top_p)
    economy.check_for(model, refiner)
    quantizer, final = tokenizer.quantizer, model.schedule.num_scales - 1

    def draw(logits_BlV: Tensor) -> Tensor:
        return draw_tokens(filter_logits(logits_BlV, top_k, top_p), generator)

    walk = Walk(model, labels, guided=cfg > 0)
    added_BChw = f_hat_BChw = walk.cond_BD.new_zeros(len(labels), model.config.code_dim, *model.schedule.final_grid)
    inputs, tokens = [], []
    for k in range(economy.scales or final + 1):
        if k == economy.guided_scales:
            walk.end_guidance()
        if k == economy.refined_from:
            walk = walk.handed_to(refiner, inputs)
        strength = cfg * k / max(final, 1)
        inputs += [quantizer.at_scale(f_hat_BChw, k)] if k else []
        if k == final and economy.sub_steps > 1:
            tokens_Bl = draw_in_parts(walk, quantizer, inputs[-1], strength, draw, economy.sub_steps, generator)
        elif k == final and economy.kept_tokens < 1:
            tokens_Bl = draw_where_it_changes(
                walk, quantizer, inputs[-1], strength, draw, added_BChw, economy.kept_tokens
            )
        else:
            hidden_BlD = walk.hidden(walk.embed(k, inputs[-1] if k else None))[:, -model.schedule.counts[k] :]
            tokens_Bl = draw(walk.logits(hidden_BlD, strength))
        added_BChw = quantizer.contribution(quantizer.lookup(tokens_Bl), k)
        f_hat_BChw = f_hat_BChw + added_BChw
        tokens.append(tokens_Bl)
    images = tokenizer.decode_features(f_hat_BChw).clamp(-1, 1)
    return Sample((images + 1) / 2, torch.cat(tokens, dim=1))


def draw_where_it_changes(
    walk: Walk,
    quantizer,
    inputs_BlC: Tensor,
    strength: float,
    draw: Callable[[Tensor], Tensor],
    added_BChw: Tensor,
    share: float,
) -> Tensor:
    """Tokens of the last scale (B, l): drawn at the positions to which the scale before added most.

    The others get the code nearest to zero, which leaves the picture nearly as it is.
    """
    k = walk.model.schedule.num_scales - 1
    count = max(1, round(share * inputs_BlC.shape[1]))
    where_Bl = quantizer.at_scale(added_BChw, k).norm(dim=-1).topk(count, dim=1).indices
    x_BlD = walk.embed(k, inputs_BlC)
    rows_Bl1 = where_Bl.repeat(1 + walk.guided, 1)[..., None]
    x_BlD = x_BlD.gather(1, rows_Bl1.expand(-1, -1, x_BlD.shape[-1]))
    drawn_Bl = draw(walk.logits(walk.hidden(x_BlD), strength))
    nothing = quantizer.nearest(inputs_BlC.new_zeros(1, inputs_BlC.shape[-1]), k)
    return nothing.expand(inputs_BlC.shape[:2]).scatter(1, where_Bl, drawn_Bl)


def draw_in_parts(
    walk: Walk,
    quantizer,
    inputs_BlC: Tensor,
    strength: float,
    draw: Callable[[Tensor], Tensor],
    parts: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Tokens of the last scale (B, l), some at random positions first, of which the others then know.

    Parts grow along a cosine (MaskGIT, arXiv 2202.04200). What is drawn is added to the inputs, as training with
    ``VARConfig.revealed`` shows it.
    """
    k, (batch, length, _) = walk.model.schedule.num_scales - 1, inputs_BlC.shape
    noise_Bl = torch.rand(batch, length, generator=generator, device=inputs_BlC.device)
    place_Bl = noise_Bl.argsort(1).argsort(1)  # when a position has its turn
    tokens_Bl = torch.zeros_like(place_Bl)
    known_Bl = torch.zeros_like(place_Bl, dtype=torch.bool)
    for part in range(1, parts + 1):
        end = max(part, round(length * (1 - math.cos(math.pi / 2 * part / parts))))
        walk.forget_from(k)
        given_BlC = inputs_BlC + quantizer.last_scale_so_far(tokens_Bl, known_Bl)
        drawn_Bl = draw(walk.logits(walk.hidden(walk.embed(k, given_BlC)), strength))
        tokens_Bl = torch.where(known_Bl, tokens_Bl, drawn_Bl)
        known_Bl = place_Bl < end
    return tokens_Bl
