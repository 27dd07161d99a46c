"""MaskGIT's loop: all tokens at once, the surest are kept, the others hidden again (arXiv 2202.04200, section 3.2).

Explained in ``notebooks/12_rivals.ipynb``.
"""

import math

import torch
from torch import Tensor

from minivar.models.maskgit import MaskGIT
from minivar.sampling.config import MaskedSamplingConfig
from minivar.sampling.drawing import Sample, check_given, check_labels, draw_tokens
from minivar.tokenizer.vqvae import VQVAE


def hidden_share(progress: Tensor | float) -> Tensor:
    """The share of tokens that are hidden, cos(pi progress / 2): 1 at the beginning, 0 at the end."""
    return torch.cos(torch.as_tensor(progress, dtype=torch.float64) * math.pi / 2)


def hidden_counts(tokens: int, steps: int) -> list[int]:
    """How many of ``tokens`` are hidden after each of ``steps``: by the cosine, at least one shown at every step.

    Raises ``ValueError`` where there are more steps than tokens.
    """
    if not 1 <= steps <= tokens:
        raise ValueError(f"Drawing {tokens} tokens takes 1 to {tokens} steps; got {steps}.")
    counts, before = [], tokens
    for step in range(1, steps + 1):
        by_cosine = math.floor(tokens * hidden_share(step / steps).item() + 1e-9)
        before = max(min(by_cosine, before - 1), steps - step)
        counts.append(before)
    return counts


def hidden_count(given_BN: Tensor) -> int:
    """How many tokens of each image are -1; ``ValueError`` unless they are equally many: one schedule serves all."""
    counts = (given_BN < 0).sum(1).unique().tolist()
    if len(counts) != 1:
        raise ValueError(f"Expected as many hidden tokens in each image; got {counts[0]} to {counts[-1]}.")
    return counts[0]


@torch.no_grad()
def sample_masked(
    model: MaskGIT,
    tokenizer: VQVAE | None,
    labels: Tensor,
    steps: int = 8,
    cfg: float = 1.0,
    choice_temperature: float = 4.5,
    generator: torch.Generator | None = None,
    given: Tensor | None = None,
) -> Sample:
    """Draw one image for each class (B,) in ``steps`` passes.

    At every step all hidden tokens are drawn at once, and those with the highest confidence stay: log p of what was
    drawn, plus Gumbel noise times ``choice_temperature``, which falls to zero over the steps. ``cfg`` above 1 guides:
    logits = null + cfg (class - null). ``tokenizer=None`` gives ``images=None``. ``given`` (B, N): tokens that are
    shown from the beginning, -1 where they are hidden, in the same number for all images; fewer hidden ones than
    ``steps`` take a step each (editing). Raises ``ValueError`` for impossible parameters.
    """
    config, guided = model.config, cfg > 1
    check_labels(labels, config.num_classes)
    check_given(given, (len(labels), config.num_tokens), config.codebook_size)
    both = torch.cat([labels, torch.full_like(labels, config.num_classes)]) if guided else labels
    tokens_BN = labels.new_full((len(labels), config.num_tokens), model.mask_code)
    hidden = config.num_tokens
    if given is not None:
        tokens_BN, hidden = torch.where(given >= 0, given, tokens_BN), hidden_count(given)
        steps = min(steps, hidden)
    counts = hidden_counts(hidden, steps)
    MaskedSamplingConfig(steps, cfg, choice_temperature)
    for step, count in enumerate(counts, 1):
        logits_BNV = model(both, tokens_BN.repeat(2, 1) if guided else tokens_BN)
        if guided:
            class_BNV, null_BNV = logits_BNV.chunk(2)
            logits_BNV = null_BNV + cfg * (class_BNV - null_BNV)
        hidden_BN = tokens_BN == model.mask_code
        drawn_BN = torch.where(hidden_BN, draw_tokens(logits_BNV, generator), tokens_BN)
        surety_BN = logits_BNV.log_softmax(-1).gather(-1, drawn_BN[..., None])[..., 0]
        gumbel_BN = -torch.empty_like(surety_BN).exponential_(generator=generator).log()
        surety_BN = surety_BN + choice_temperature * (1 - step / steps) * gumbel_BN
        surety_BN = surety_BN.masked_fill(~hidden_BN, math.inf)  # what was shown stays
        least_sure = surety_BN.argsort(dim=-1)[:, :count]
        tokens_BN = drawn_BN.scatter(-1, least_sure, model.mask_code)
    images = None if tokenizer is None else (tokenizer.decode([tokens_BN]) + 1) / 2
    return Sample(images, tokens_BN)
