"""The KV cache: what earlier tokens left behind in an attention layer."""

from torch import Tensor


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
