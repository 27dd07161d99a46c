"""Who learns in a run: the model and, in a GAN, its discriminator, each with an optimiser of its own.

What they share is the precision of the backward pass and the care that no number which is not finite is kept.
"""

import torch
from torch import Tensor, nn

from minivar.distributed import least_over_ranks
from minivar.training import parallel
from minivar.training.config import TrainConfig
from minivar.training.schedules import apply_schedules, parameter_groups
from minivar.training.task import Stats

# The scale of the loss in fp16, as in VAR's published trainer: where it begins, after how many good steps it doubles,
# and the most that leaves room below fp16's largest number, 65,504.
LOSS_SCALE = {"init_scale": 2.0**11, "growth_interval": 1000}
MAX_LOSS_SCALE = 2.0**15


class Players:
    """``networks`` by name, first the "model"; each learns at the learning rate of the run.

    ``fp16``: gradients are computed at a scaled loss, since small ones would vanish in 16 bits.
    """

    def __init__(self, networks: dict[str, nn.Module], config: TrainConfig, device: torch.device, fp16: bool) -> None:
        self.networks, self.config, self.device = networks, config, device
        self.optimizers = {
            name: torch.optim.AdamW(parameter_groups(network), betas=config.betas, fused=True)
            for name, network in networks.items()
        }
        self.scaler = torch.amp.GradScaler(device.type, **LOSS_SCALE, enabled=fp16)
        self.first_bad = torch.tensor(torch.iinfo(torch.int64).max, device=device)  # step with numbers not finite

    def begin(self, step: int, steps: int) -> None:
        """Learning rates and weight decay of a step; no gradients yet."""
        apply_schedules(step, steps, self.config, *self.optimizers.values())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one of ``accumulate`` parts of a batch."""
        self.scaler.scale(loss / self.config.accumulate).backward()

    def clip(self) -> Stats:
        """Clip the gradients of each player; their norms before that, 0 for a discriminator before its start."""
        norms = {}
        for name, network in self.networks.items():
            norm = torch.zeros((), device=self.device)
            if has_gradients(network):
                self.scaler.unscale_(self.optimizers[name])
                norm = parallel.whole_tensor(nn.utils.clip_grad_norm_(network.parameters(), self.config.clip))
            norms["grad_norm" if name == "model" else f"{name}_grad_norm"] = norm
        return norms

    def step(self) -> None:
        """One step of each player that has gradients; in fp16 of those whose gradients did not overflow."""
        for name, network in self.networks.items():
            if has_gradients(network):
                self.scaler.step(self.optimizers[name])
        self.scaler.update()

    # Numbers that are not finite ------------------------------------------------------------------------------

    def watch(self, step: int, stats: Stats) -> Stats:
        """Remember the first step at which a loss or a gradient was not finite; ``stats`` as they may be logged.

        Nothing waits for a GPU here. In fp16, gradients that overflow are part of the method: that step is left out
        and the scale halved. Their norms are logged as 0, and the share of such steps as ``skipped``.
        """
        norms = {key: value for key, value in stats.items() if key.endswith("grad_norm")}
        losses = [stats[key] for key in ("loss", "discriminator_loss") if key in stats]
        if self.scaler.is_enabled():
            sound = {key: torch.isfinite(value) for key, value in norms.items()}
            skipped = ~torch.stack(list(sound.values())).all()
            norms = {key: torch.where(sound[key], value, 0.0) for key, value in norms.items()}
            stats = {**stats, **norms, "skipped": skipped.float()}
        finite = torch.isfinite(torch.stack([x.detach() for x in (*losses, *norms.values())])).all()
        self.first_bad = torch.where(finite, self.first_bad, self.first_bad.clamp_max(step))
        return stats

    def broke_at(self, step: int) -> int | None:
        """The first step until this one at which the numbers of any rank were not finite; every rank must ask.

        In fp16 also this step, where the gradients overflow however small the scale.
        """
        first = int(least_over_ranks(self.first_bad))
        if first <= step:
            return first
        return step if self.scaler.is_enabled() and self.scaler.get_scale() < 1 else None

    def limit_scale(self) -> dict[str, float]:
        """Keep the scale of the loss in its limits, and say what it is; nothing without fp16."""
        if not self.scaler.is_enabled():
            return {}
        scale = self.scaler.get_scale()
        if scale > MAX_LOSS_SCALE:
            self.scaler.update(MAX_LOSS_SCALE)
        return {"loss_scale": scale}


def has_gradients(network: nn.Module) -> bool:
    """Whether a backward pass has reached any parameter."""
    return any(parameter.grad is not None for parameter in network.parameters())
