"""Tokens to logits: the next-scale transformer (``VAR``) and the next-token transformer (``GPT``)."""

from minivar.models.gpt import GPT, GPTConfig
from minivar.models.var import VAR, VARConfig


def build(config: VARConfig | GPTConfig) -> VAR | GPT:
    """The model of a configuration, freshly initialised."""
    return (GPT if isinstance(config, GPTConfig) else VAR)(config)


__all__ = ["GPT", "VAR", "GPTConfig", "VARConfig", "build"]
