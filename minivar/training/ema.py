"""Averaged weights: an exponential moving average over the steps, which is smoother than the last step's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The moving average of a model's parameters; with a ``decay`` of 0 there is none, and every method does nothing.

    ``weights`` maps the names of the parameters to their averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        named = model.named_parameters() if decay else ()
        self.weights: dict[str, Tensor] = {key: parameter.detach().clone() for key, parameter in named}

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay * average + (1 - decay) * parameter."""
        for key, average in self.weights.items():
            average.lerp_(self.model.get_parameter(key).detach(), 1 - self.decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Give the model the averages for good."""
        for key, average in self.weights.items():
            self.model.get_parameter(key).copy_(average)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this context the model has the averages, after it its own parameters again, bit for bit."""
        own = {key: self.model.get_parameter(key).detach().clone() for key in self.weights}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for key, parameter in own.items():
                    self.model.get_parameter(key).copy_(parameter)
