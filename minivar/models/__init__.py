"""Tokens to logits: next scale (``VAR``), next token (``GPT``), hidden (``MaskGIT``). Noise to picture: ``DiT``."""

from minivar.models.dit import DiT, DiTConfig
from minivar.models.gpt import GPT, GPTConfig
from minivar.models.maskgit import MaskGIT, MaskGITConfig
from minivar.models.text import TextConfig, TextEncoder
from minivar.models.text_var import TextVAR, TextVARConfig
from minivar.models.var import VAR, VARConfig

# Of each configuration. A ``TextVAR`` is a ``VAR``, and comes before it: the first that a model is an instance of
GENERATORS = {TextVARConfig: TextVAR, VARConfig: VAR, GPTConfig: GPT, MaskGITConfig: MaskGIT, DiTConfig: DiT}
Config = VARConfig | TextVARConfig | GPTConfig | MaskGITConfig | DiTConfig
Generator = VAR | GPT | MaskGIT | DiT


def caption_shape(config: Config) -> tuple[int, int] | None:
    """(T, caption_dim) of the features that a model draws from, None where it draws classes."""
    tokens = getattr(config, "caption_tokens", 0)
    return (tokens, config.caption_dim) if tokens else None


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
    "TextConfig",
    "TextEncoder",
    "TextVAR",
    "TextVARConfig",
    "VARConfig",
    "build",
    "caption_shape",
]
