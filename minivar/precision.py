"""Which numbers a computation is done in: what autocast may decide, and where it may not."""

import warnings
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def full_precision(tensor: Tensor):
    """Context without autocast: distances between codes and sums of residuals do not survive bfloat16."""
    device = tensor.device.type  # autocast is unknown to "meta", where only shapes are computed
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def autocast(device: torch.device, precision: str = "float32"):
    """Context in which ``device`` multiplies matrices in one of ``PRECISIONS``; ``ValueError`` if it cannot."""
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    dtype = PRECISIONS[precision]
    if dtype is None:
        return nullcontext()
    try:  # with a convolution, since a processor that lacks it may have the other operations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where autocast does not know a type, it warns, and does nothing
            context = torch.autocast(device.type, dtype=dtype)
        with context:
            made = F.conv2d(torch.zeros(1, 1, 4, 4, device=device), torch.zeros(1, 1, 3, 3, device=device))
        works = made.dtype == dtype
    except RuntimeError:
        works = False
    if not works:
        raise ValueError(f"The device {device} cannot compute in {precision}: expected float32.")
    return context
