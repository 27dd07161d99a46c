"""Which numbers a computation is done in: what autocast may decide, and where it may not.

On NVIDIA's GPUs float32 is not one thing. Tensor cores multiply in *TF32*, with the 8 bits of exponent of float32 and
10 bits of fraction in place of 23, several times faster; torch lets convolutions do so unless told, and matrix
products not. Here "float32" means float32 in both and "tf32" means TF32 in both, which is what VAR's and LlamaGen's
trainers do; under bf16 and fp16 what autocast leaves in float32, such as the head, may use TF32 as well.
"""

import warnings
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's, if any


def full_precision(tensor: Tensor):
    """Context without autocast: distances between codes and sums of residuals do not survive bfloat16."""
    device = tensor.device.type  # autocast is unknown to "meta", where only shapes are computed
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def convolution_order(device: torch.device | str) -> torch.memory_format:
    """For ``module.to(device, memory_format=...)``: how the weights of convolutions lie, and so what passes them.

    Channels last on a GPU: its tensor cores multiply along channels, and cuDNN would turn 16-bit images around and
    back at each convolution. As they come on a CPU: there a training step of the published tokenizer took 20 s in the
    other order and 13.5 in this (one image, two cores), since the gradient of GroupNorm suffers more than
    convolutions gain.
    """
    return torch.channels_last if torch.device(device).type == "cuda" else torch.preserve_format


@contextmanager
def tf32(device: torch.device, precision: str):
    """Context in which what is left in float32 may, or may not, use TF32; off CUDA there is none."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    allowed = precision != "float32"
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def computing(device: torch.device, precision: str = "float32"):
    """Context in which ``device`` multiplies matrices in one of ``PRECISIONS``; ``ValueError`` now if it cannot."""
    sixteen_bits = autocast(device, precision)

    @contextmanager
    def both():
        with sixteen_bits, tf32(device, precision):
            yield

    return both()


def autocast(device: torch.device, precision: str = "float32"):
    """The part of ``computing`` that a region within it needs again: autocast alone; ``ValueError`` as there."""
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
