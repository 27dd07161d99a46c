"""Averaged weights: an exponential moving average over the steps, which is smoother than the last step's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """The moving average of a model's parameters; with a ``decay`` of 0 there is none, and every method does nothing.

    ``weights`` maps the names of the parameters to their averages. The decay grows to its value: after s steps it is
    min(decay, (1 + s) / (10 + s)), as in TensorFlow's ``ExponentialMovingAverage``, so that the average of a short
    run does not remember its random start. With a decay of .9999 and s = 0, 10, 100, 1000: .1, .55, .92, .991.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        named = model.named_parameters() if decay else ()
        self.weights: dict[str, Tensor] = {key: parameter.detach().clone() for key, parameter in named}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- d * average + (1 - d) * parameter, with the decay d after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.weights:  # all parameters at once: on a GPU, one launch each would take longer than the arithmetic
            parameters = [self.model.get_parameter(key) for key in self.weights]
            get_ema_multi_avg_fn(decay)(list(self.weights.values()), parameters, None)

    @torch.no_grad()
    def start_from_model(self) -> None:
        """Take the model's parameters for the averages."""
        for key, average in self.weights.items():
            average.copy_(self.model.get_parameter(key))

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
