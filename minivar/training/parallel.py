"""One model on several processes: how it is spread over them, and how it is whole again.

Two strategies, both PyTorch's own: *DDP* keeps the whole model on every rank and averages gradients; *FSDP2*
(``sharding.py``) spreads parameters, gradients and optimiser over the ranks.
Explained in ``notebooks/13_imagenet.ipynb``.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minivar.distributed import Ranks

# ``sharding`` is imported where a model is sharded: what it needs of PyTorch takes a second to import.


def wrap(
    model: nn.Module, ranks: Ranks, unused_parameters: bool = False, precision: torch.dtype | None = None
) -> nn.Module:
    """The model as the training loop calls it: itself, or wrapped for several processes.

    FSDP shards a model with blocks, whose weights are gathered in ``precision``, autocast's; one without blocks (the
    tokenizer, whose codebook is mended in place) is small enough for DDP, which it gets in either case.
    ``unused_parameters``: some may get no gradient in a step, which DDP must know.
    """
    if ranks.strategy is None:
        return model
    if ranks.strategy == "fsdp" and hasattr(model, "blocks"):
        from minivar.training import sharding

        return sharding.shard(model, ranks, precision)
    return DistributedDataParallel(
        model,
        device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
        find_unused_parameters=unused_parameters,
        gradient_as_bucket_view=True,  # gradients lie in the buckets that are sent, not beside them
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP has spread this model."""
    return hasattr(model, "set_requires_gradient_sync")  # an FSDPModule, of which nothing need be imported to ask


def reshard(model: nn.Module) -> None:
    """Give up the weights that FSDP has left gathered after a forward pass that no backward pass follows."""
    if is_sharded(model):
        model.reshard()


def hold_gradients(wrapped: nn.Module, last: bool):
    """Context for one of several accumulated backward passes: gradients are averaged over ranks in the last only."""
    if isinstance(wrapped, DistributedDataParallel):
        return nullcontext() if last else wrapped.no_sync()
    if is_sharded(wrapped):
        wrapped.set_requires_gradient_sync(last)
    return nullcontext()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor that FSDP has spread over the ranks, gathered; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, gathered onto the CPU of rank 0 (empty elsewhere) where the model is sharded."""
    if not is_sharded(model):
        return model.state_dict()
    from minivar.training import sharding

    return sharding.gathered_state(model)


def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model, sharded or not, the tensors of ``whole_state``, which every rank must have."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    from minivar.training import sharding

    sharding.load_gathered(model, state)
