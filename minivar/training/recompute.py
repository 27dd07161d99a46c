"""Less memory for more arithmetic: activations that are forgotten and computed again."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from minivar.tokenizer.nets import AttnBlock, ResBlock
from minivar.training.config import TrainingError


def units(model: nn.Module) -> list[nn.Module]:
    """What is forgotten and computed again one at a time: the blocks of a transformer, or of a tokenizer's nets.

    A tokenizer's are its residual and its attention blocks: five of the former at full resolution hold most of what
    it keeps. Smaller units than its levels, since the largest of them has to fit beside the inputs of all others.
    """
    if hasattr(model, "blocks"):
        return list(model.blocks)
    return [module for module in model.modules() if isinstance(module, ResBlock | AttnBlock)]


def recompute(model: nn.Module) -> None:
    """Make the ``units`` keep their inputs alone, and compute the rest again in the backward pass (arXiv 1604.06174).

    Raises ``TrainingError`` for a model without any, which would be none the smaller.
    """
    found = units(model)
    if not found:
        raise TrainingError(
            f"recompute knows the blocks of transformers and tokenizers; got a {type(model).__name__} without any, "
            "expected recompute=False."
        )
    for unit in found:
        unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)
