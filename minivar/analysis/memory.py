"""What a training step keeps in memory for its backward pass, traced before anything is started.

The step runs forward on *fake* tensors, which have shapes and no numbers, and everything that autograd would keep is
added up. The fake tensors claim to be on a GPU, since autocast treats a GPU's operations otherwise than a CPU's:
there, normalisations and losses run in float32, and what they keep is twice as large. No GPU is needed.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from minivar import models
from minivar.models import GPTConfig
from minivar.tokenizer import VQVAE, LossConfig, TokenizerConfig, TokenizerLoss
from minivar.tokenizer.losses import Perceptual
from minivar.training.recompute import recompute as recompute_activations
from minivar.training.recompute import units

MANY_STEPS = 10**9  # of a tokenizer's run, so that there is one after any start of its discriminator


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps for the backward pass: ``fixed`` (low-precision weights), and per image."""

    fixed: int
    per_image: int

    def of(self, images: int) -> int:
        """Bytes for a forward pass over this many images."""
        return self.fixed + images * self.per_image

    def plus(self, times: int, other: "Activations") -> "Activations":
        """These, and ``times`` what distinguishes ``other`` from them."""
        fixed, per_image = (times * (theirs - own) for own, theirs in zip(astuple(self), astuple(other)))
        return Activations(self.fixed + fixed, self.per_image + per_image)


class Kept(NamedTuple):
    """Bytes of what autograd keeps: of a whole step, and of the unit of recomputation that keeps most."""

    all: int
    largest_unit: int


@contextmanager
def fake_gpu():
    """Context in which tensors have shapes alone, ``device="cuda"`` is there, and does what a GPU does.

    Torch looks for a real one in three places: without it autocast is off, bfloat16 is refused, and attention goes
    step by step, where a GPU has a kernel that does not keep the weights.
    """
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.is_bf16_supported", return_value=True),
        patch("torch.nn.functional.scaled_dot_product_attention", _fused_attention),
    ):
        yield


def _fused_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None) -> Tensor:
    """Attention by the kernel that a GPU chooses where there is a mask; without one, others keep as much."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    heads = [x if x.dim() == 4 else x.unsqueeze(1) for x in (q, k, v)]
    bias = attn_mask
    if attn_mask is not None:
        bias = torch.zeros(attn_mask.shape, dtype=q.dtype, device=q.device)
        bias = bias.expand(*heads[0].shape[:2], *attn_mask.shape[-2:])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    out = kernel(*heads, bias, True, dropout_p, is_causal, scale=scale)[0]
    return out.view(q.shape)


def kept_bytes(model: nn.Module, step: Callable[[], Tensor], others: Iterable[nn.Module] = ()) -> Kept:
    """Bytes of the storages that autograd keeps in ``step``, a forward pass of ``model`` that ends in its loss.

    What ``model`` and the modules ``others`` hold in any case, parameters and buffers, does not count.
    """
    storages: dict[int, int] = {}
    began, of_units = [0], [0]
    modules = (model, *others)
    state = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    own = {tensor.untyped_storage()._cdata for tensor in state}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage.nbytes()
        return tensor

    def begin(*_) -> None:
        began[0] = sum(storages.values())

    def end(*_) -> None:
        of_units.append(sum(storages.values()) - began[0])

    hooks = []
    for unit in units(model):
        hooks += [unit.register_forward_pre_hook(begin), unit.register_forward_hook(end)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    for hook in hooks:
        hook.remove()
    assert loss.requires_grad  # the graph, and with it what it keeps, lives until here
    return Kept(sum(storages.values()), max(of_units))


def _traced(modules: tuple[nn.Module, ...], step: Callable[..., Tensor], recompute: bool) -> Activations:
    """What ``step(*modules, images)`` keeps on a fake GPU; the first of the ``modules``, shapes alone, is the model.

    With recomputation the inputs of all units are kept, and in its turn each unit is there as a whole.
    """

    def kept(recompute: bool) -> list[Kept]:
        model, *others = copy.deepcopy(modules)
        with fake_gpu():
            for module in (model, *others):
                module.to_empty(device="cuda")
            if recompute:
                recompute_activations(model)
            return [kept_bytes(model, lambda n=images: step(model, *others, n), others) for images in (1, 2)]

    one, two = [each.all for each in kept(recompute)]
    if recompute:
        units_of_one, units_of_two = [each.largest_unit for each in kept(False)]
        one, two = one + units_of_one, two + units_of_two
    return Activations(fixed=2 * one - two, per_image=two - one)  # what both have in common is fixed


# Transformers -----------------------------------------------------------------------------------------------------


def teacher_forced_inputs(config, batch: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """(condition, inputs, targets) of the right shapes for one training forward."""
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    if isinstance(config, GPTConfig):
        count = math.prod(config.grid)
        inputs = torch.zeros(batch, count - 1, dtype=torch.int64, device=device)
    else:
        count = config.schedule.num_tokens
        inputs = torch.zeros(batch, count - config.schedule.counts[0], config.code_dim, device=device)
    return labels, inputs, torch.zeros(batch, count, dtype=torch.int64, device=device)


def transformer_step(model: nn.Module, images: int, precision: torch.dtype | None = torch.bfloat16) -> Tensor:
    """The loss of a transformer's training step, on the device of the model."""
    device = next(model.parameters()).device.type
    labels, inputs, targets = teacher_forced_inputs(model.config, images, device)
    with torch.autocast(device, dtype=precision, enabled=precision is not None):
        return F.cross_entropy(model(labels, inputs).flatten(0, 1), targets.flatten())


@functools.cache
def transformer_activations(
    config, recompute: bool = False, precision: torch.dtype | None = torch.bfloat16
) -> Activations:
    """Activations of a transformer's training step on a GPU, from its configuration alone.

    Every block but the first, which no stochastic depth skips, keeps as much as the next: three are traced at most.
    """
    if config.depth > 3:
        two, three = (transformer_activations(replace(config, depth=n), recompute, precision) for n in (2, 3))
        return two.plus(config.depth - 2, three)
    with torch.device("meta"):
        shapes = models.build(config).train()
    return _traced((shapes,), functools.partial(transformer_step, precision=precision), recompute)


# Tokenizers -------------------------------------------------------------------------------------------------------


def tokenizer_and_loss(config: TokenizerConfig, loss: LossConfig) -> tuple[VQVAE, TokenizerLoss]:
    """A tokenizer and what it is trained with, shapes alone, on the meta device.

    In eval mode, in which the quantiser does not count its codes, and with a constant weight of the discriminator:
    either would ask for numbers. What is kept is the same.
    """
    with torch.device("meta"):
        objective = TokenizerLoss(
            replace(loss, perceptual=0.0, adaptive=False), config.nets.image_channels, MANY_STEPS
        )
        if loss.perceptual:
            objective.perceptual = Perceptual(size=loss.perceptual_size, shapes_only=True)
            objective.config = replace(loss, adaptive=False)
        return VQVAE(config).eval(), objective.to("meta")


def tokenizer_step(
    tokenizer: VQVAE, objective: TokenizerLoss, images: int, precision: torch.dtype | None = torch.bfloat16
) -> Tensor:
    """The loss of a tokenizer's training step once the discriminator has begun, on the device of the model."""
    config, device = tokenizer.config, next(tokenizer.parameters()).device.type
    pixels = torch.zeros(images, config.nets.image_channels, *config.image_size, device=device)
    with torch.autocast(device, dtype=precision, enabled=precision is not None):
        out = tokenizer(pixels)
        extra = {"vectors": torch.cat(out.residuals), "codes": tokenizer.quantizer.codes}
        loss, _ = objective(pixels, out.reconstruction, out.loss, objective.start, **extra)
    return loss


@functools.cache
def tokenizer_activations(
    config: TokenizerConfig,
    loss: LossConfig,
    recompute: bool = False,
    precision: torch.dtype | None = torch.bfloat16,
) -> Activations:
    """Activations of a tokenizer's training step on a GPU, LPIPS and discriminator included."""
    step = functools.partial(tokenizer_step, precision=precision)
    return _traced(tokenizer_and_loss(config, loss), step, recompute)
