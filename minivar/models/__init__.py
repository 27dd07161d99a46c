"""Tokens to logits: next scale (``VAR``), next token (``GPT``), hidden (``MaskGIT``). Noise to picture: ``DiT``."""

from minivar.models.dit import DiT, DiTConfig
from minivar.models.gpt import GPT, GPTConfig
from minivar.models.maskgit import MaskGIT, MaskGITConfig
from minivar.models.var import VAR, VARConfig

GENERATORS = {VARConfig: VAR, GPTConfig: GPT, MaskGITConfig: MaskGIT, DiTConfig: DiT}  # of each configuration
Config = VARConfig | GPTConfig | MaskGITConfig | DiTConfig
Generator = VAR | GPT | MaskGIT | DiT


def build(config: Config) -> Generator:
    """The model of a configuration, freshly initialised."""
    return GENERATORS[type(config)](config)


__all__ = [
    "GENERATORS",
    "GPT",
    "VAR",
    "Config",
    "DiT",
    "DiTConfig",
    "GPTConfig",
    "Generator",
    "MaskGIT",
    "MaskGITConfig",
    "VARConfig",
    "build",
]
