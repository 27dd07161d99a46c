"""Which numbers a computation is done in, where that is not for autocast to decide."""

from contextlib import nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor):
    """Context without autocast: distances between codes and sums of residuals do not survive bfloat16."""
    device = tensor.device.type  # autocast is unknown to "meta", where only shapes are computed
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
