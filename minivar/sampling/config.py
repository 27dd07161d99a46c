"""How samples are drawn, as tables. The limits of guidance and temperature keep logits within float32."""

import math
from dataclasses import dataclass

from minivar.checks import check
from minivar.models import DiTConfig, GPTConfig, MaskGITConfig, TextVARConfig, VARConfig


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


@dataclass(frozen=True)
class MaskedSamplingConfig:
    """Steps, guidance (1: none) and the noise in what is kept. Defaults: the published eight steps."""

    steps: int = 8
    cfg: float = 1.0
    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        check(self, steps="[1, 1e6]", cfg="[1, 1000]", choice_temperature="[0, inf)")


@dataclass(frozen=True)
class DiffusionSamplingConfig:
    """Steps, guidance (1: none) and "ancestral" or "ddim". Defaults: the published code's."""

    steps: int = 250
    cfg: float = 1.5
    method: str = "ancestral"

    def __post_init__(self) -> None:
        check(self, steps="[1, 1000]", cfg="[1, 1000]", method=("ancestral", "ddim"))


AnySamplingConfig = SamplingConfig | RasterSamplingConfig | MaskedSamplingConfig | DiffusionSamplingConfig
SETTINGS = {  # how the models of each configuration are drawn from
    VARConfig: SamplingConfig,
    TextVARConfig: SamplingConfig,
    GPTConfig: RasterSamplingConfig,
    MaskGITConfig: MaskedSamplingConfig,
    DiTConfig: DiffusionSamplingConfig,
}
