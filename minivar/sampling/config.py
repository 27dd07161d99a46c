"""How samples are drawn, as tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingConfig:
    """Guidance at the last scale and the filters on the codes. Defaults: the FID protocol of the paper."""

    cfg: float = 1.5
    top_k: int = 900
    top_p: float = 0.96


@dataclass(frozen=True)
class RasterSamplingConfig:
    """Guidance (1: none), temperature and filters of token by token sampling. Defaults: off."""

    cfg: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
