"""Tokens to logits: next scale (``VAR``), next token (``GPT``), hidden (``MaskGIT``). Noise to picture: ``DiT``."""

from minivar.models.dit import DiT, DiTConfig
from minivar.models.gpt import GPT, GPTConfig
from minivar.models.maskgit import MaskGIT, MaskGITConfig
from minivar.models.var import VAR, VARConfig


def build(config: VARConfig | GPTConfig) -> VAR | GPT:
    """The model of a configuration, freshly initialised."""
    return (GPT if isinstance(config, GPTConfig) else VAR)(config)


__all__ = ["GPT", "VAR", "DiT", "DiTConfig", "GPTConfig", "MaskGIT", "MaskGITConfig", "VARConfig", "build"]
