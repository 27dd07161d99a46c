"""The KV cache: what earlier tokens left behind in an attention layer."""

import math

from torch import Tensor

from minivar.models import GPTConfig, VARConfig

CACHE_BYTES = 8e9  # of all layers, for the images that are drawn together where nobody says how many


def cache_bytes(config, precision: str = "float32") -> int:
    """What drawing one guided image with a model of this configuration keeps in its caches; not all have some."""
    if not isinstance(config, VARConfig | GPTConfig):
        return 0
    length = config.prefix + (config.schedule.num_tokens if isinstance(config, VARConfig) else math.prod(config.grid))
    guided, keys_and_values, bytes_a_number = 2, 2, 4 if precision == "float32" else 2
    return guided * keys_and_values * config.depth * length * config.width * bytes_a_number


def images_at_once(config, precision: str = "float32", most: int = 100) -> int:
    """How many images to draw together: at most ``most``, and no more than ``CACHE_BYTES`` have room for.

    The caches are what grows: of a hundred images by the published d36-s they would take 300 GB in float32.
    """
    return max(1, min(most, int(CACHE_BYTES // max(cache_bytes(config, precision), 1))))


class KVCache:
    """Keys and values of one attention layer, (B, H, length, E), allocated at once and filled as tokens come."""

    def __init__(self, length: int) -> None:
        self.length, self.filled = length, 0

    def append(self, k_BHlE: Tensor, v_BHlE: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens so far."""
        if self.filled == 0:
            batch, heads, _, width = k_BHlE.shape
            self.k_BHLE = k_BHlE.new_empty(batch, heads, self.length, width)
            self.v_BHLE = v_BHlE.new_empty(batch, heads, self.length, width)
        end = self.filled + k_BHlE.shape[2]
        self.k_BHLE[:, :, self.filled : end] = k_BHlE
        self.v_BHLE[:, :, self.filled : end] = v_BHlE
        self.filled = end
        return self.k_BHLE[:, :, :end], self.v_BHLE[:, :, :end]

    def keep_rows(self, count: int) -> None:
        """Of the batch only the first ``count`` go on."""
        if self.filled:
            self.k_BHLE, self.v_BHLE = self.k_BHLE[:count], self.v_BHLE[:count]
