"""How samples are drawn, as tables. The limits of guidance and temperature keep logits within float32."""

import math
from dataclasses import dataclass

from minivar.checks import check


@dataclass(frozen=True)
class SamplingConfig:
    """Guidance at the last scale and the filters on the codes. Defaults: the FID protocol of the paper."""

    cfg: float = 1.5
    top_k: int = 900
    top_p: float = 0.96

    def __post_init__(self) -> None:
        check(self)
        if not (0 <= self.cfg <= 1000 and self.top_k >= 0 and 0 <= self.top_p <= 1):
            raise ValueError(
                "Sampling needs cfg >= 0, top_k >= 0 and top_p in [0, 1], and cfg of at most 1000; got cfg "
                f"{self.cfg}, top_k {self.top_k}, top_p {self.top_p}."
            )


@dataclass(frozen=True)
class RasterSamplingConfig:
    """Guidance (1: none), temperature and filters of token by token sampling. Defaults: off."""

    cfg: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check(self)
        in_float32 = self.cfg <= 1000 and 0.001 <= self.temperature < math.inf
        if not (in_float32 and self.cfg >= 1 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(
                "Raster sampling (with cfg of at most 1000 and a temperature of at least 0.001) needs cfg >= 1, "
                f"temperature > 0, top_k >= 0 and top_p in (0, 1]; got cfg {self.cfg}, temperature "
                f"{self.temperature}, top_k {self.top_k}, top_p {self.top_p}."
            )
